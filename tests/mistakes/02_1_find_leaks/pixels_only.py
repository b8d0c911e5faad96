# says: only identical pixels were found
def find_leaks(train: list[dict], test: list[dict]) -> list[int]:
    seen = [image["pixels"] for image in train]
    return [i for i, image in enumerate(test) if image["pixels"] in seen]
