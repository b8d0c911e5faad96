# says: a leak was seen only if place and pixels both agree
def find_leaks(train: list[dict], test: list[dict]) -> list[int]:
    return [i for i, image in enumerate(test) if image in train]
