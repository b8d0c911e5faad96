def find_leaks(train: list[dict], test: list[dict]) -> list[int]:
    """Positions in test of the images that training gives away.

    Each image is {"place": name or None, "pixels": (...)}. It leaks if a
    training image has the same pixels or shows the same place. None means
    that the place is not known.
    """
    pixels = {image["pixels"] for image in train}
    places = {image["place"] for image in train} - {None}
    return [i for i, image in enumerate(test)
            if image["pixels"] in pixels or image["place"] in places]
