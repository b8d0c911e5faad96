# says: that is True or False for each test image
def find_leaks(train: list[dict], test: list[dict]) -> list[int]:
    pixels = {image["pixels"] for image in train}
    places = {image["place"] for image in train} - {None}
    return [image["pixels"] in pixels or image["place"] in places
            for image in test]
