# says: an unknown place was taken for a place
def find_leaks(train: list[dict], test: list[dict]) -> list[int]:
    pixels = {image["pixels"] for image in train}
    places = {image["place"] for image in train}
    return [i for i, image in enumerate(test)
            if image["pixels"] in pixels or image["place"] in places]
