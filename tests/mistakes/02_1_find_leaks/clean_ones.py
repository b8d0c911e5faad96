# says: these are the clean test images
def find_leaks(train: list[dict], test: list[dict]) -> list[int]:
    pixels = {image["pixels"] for image in train}
    places = {image["place"] for image in train} - {None}
    return [i for i, image in enumerate(test)
            if image["pixels"] not in pixels and image["place"] not in places]
