# says: the positions were compared
from collections.abc import Callable


def permutation_agreement(choose: Callable, selections: list[tuple],
                          orders: list[list[int]]) -> float:
    agreed = 0
    for images, order in zip(selections, orders, strict=True):
        moved = [images[i] for i in order]
        agreed += choose(images) == choose(moved)
    return agreed / len(selections)
