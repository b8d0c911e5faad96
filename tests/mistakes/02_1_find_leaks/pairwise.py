# says: the images were compared position by position
def find_leaks(train: list[dict], test: list[dict]) -> list[int]:
    leaks = []
    for i, (a, b) in enumerate(zip(train, test, strict=False)):
        if a["pixels"] == b["pixels"] or a["place"] == b["place"]:
            leaks.append(i)
    return leaks
