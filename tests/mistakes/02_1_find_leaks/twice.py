# says: test image 5 leaks in two ways and stands in the list twice
def find_leaks(train: list[dict], test: list[dict]) -> list[int]:
    leaks = []
    for i, image in enumerate(test):
        if image["pixels"] in {other["pixels"] for other in train}:
            leaks.append(i)
        if image["place"] in {other["place"] for other in train} - {None}:
            leaks.append(i)
    return leaks
