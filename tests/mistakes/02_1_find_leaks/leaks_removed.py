# says: your function changes its input test
def find_leaks(train: list[dict], test: list[dict]) -> list[int]:
    pixels = {image["pixels"] for image in train}
    places = {image["place"] for image in train} - {None}
    leaks = [i for i, image in enumerate(test)
             if image["pixels"] in pixels or image["place"] in places]
    for i in reversed(leaks):
        test.pop(i)
    return leaks
