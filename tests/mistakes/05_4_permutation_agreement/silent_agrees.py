# says: an answer that could not be read (None) was counted as agreement
from collections.abc import Callable


def permutation_agreement(choose: Callable, selections: list[tuple],
                          orders: list[list[int]]) -> float:
    agreed = 0
    for images, order in zip(selections, orders, strict=True):
        first, second = choose(images), choose([images[i] for i in order])
        if first is None and second is None:
            agreed += 1
        else:
            agreed += order[second - 1] == first - 1
    return agreed / len(selections)
