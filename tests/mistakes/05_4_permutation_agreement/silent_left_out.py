# says: an answer that could not be read (None) was counted as agreement or left out
from collections.abc import Callable


def permutation_agreement(choose: Callable, selections: list[tuple],
                          orders: list[list[int]]) -> float:
    agreed = []
    for images, order in zip(selections, orders, strict=True):
        first, second = choose(images), choose([images[i] for i in order])
        if first and second:
            agreed.append(order[second - 1] == first - 1)
    return sum(agreed) / len(agreed)
