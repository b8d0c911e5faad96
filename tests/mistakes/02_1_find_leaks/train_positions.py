# says: these are the numbers of training images
def find_leaks(train: list[dict], test: list[dict]) -> list[int]:
    pixels = {image["pixels"] for image in test}
    places = {image["place"] for image in test} - {None}
    return [i for i, image in enumerate(train)
            if image["pixels"] in pixels or image["place"] in places]
