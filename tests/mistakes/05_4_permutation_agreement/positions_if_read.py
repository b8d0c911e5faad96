# says: the positions were compared
from collections.abc import Callable


def permutation_agreement(choose: Callable, selections: list[tuple],
                          orders: list[list[int]]) -> float:
    agreed = 0
    for images, order in zip(selections, orders, strict=True):
        first, second = choose(images), choose([images[i] for i in order])
        agreed += first is not None and first == second
    return agreed / len(selections)
