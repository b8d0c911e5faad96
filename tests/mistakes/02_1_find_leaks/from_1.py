# says: the positions count from 1
def find_leaks(train: list[dict], test: list[dict]) -> list[int]:
    pixels = {image["pixels"] for image in train}
    places = {image["place"] for image in train} - {None}
    return [i for i, image in enumerate(test, start=1)
            if image["pixels"] in pixels or image["place"] in places]
