# says: that is the Dice score
Box = tuple[int, int, int, int]


def overlap(first: Box, second: Box) -> float:
    """Intersection over union of two boxes (left, top, right, bottom).

    The area that both cover, divided by the area that at least one of
    them covers: 1 if they are the same, 0 if they do not touch.
    """
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    shared = max(width, 0) * max(height, 0)
    areas = [(right - left) * (bottom - top)
             for left, top, right, bottom in (first, second)]
    return 2 * shared / sum(areas)
