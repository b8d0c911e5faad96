# says: images count from 1 and places in order from 0
from collections.abc import Callable


def permutation_agreement(choose: Callable, selections: list[tuple],
                          orders: list[list[int]]) -> float:
    agreed = 0
    for images, order in zip(selections, orders, strict=True):
        first, second = choose(images), choose([images[i] for i in order])
        if first and second:
            agreed += order[second - 1] == first
    return agreed / len(selections)
