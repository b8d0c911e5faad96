# says: these are the images: give their positions in test
def find_leaks(train: list[dict], test: list[dict]) -> list[int]:
    pixels = {image["pixels"] for image in train}
    places = {image["place"] for image in train} - {None}
    return [image for image in test
            if image["pixels"] in pixels or image["place"] in places]
