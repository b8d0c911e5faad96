# says: a leak was seen only if place and pixels both agree
def find_leaks(train: list[dict], test: list[dict]) -> list[int]:
    pixels = {image["pixels"] for image in train}
    places = {image["place"] for image in train}
    return [i for i, image in enumerate(test)
            if image["pixels"] in pixels and image["place"] in places]
