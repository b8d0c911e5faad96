# says: the move was undone the wrong way round
from collections.abc import Callable


def permutation_agreement(choose: Callable, selections: list[tuple],
                          orders: list[list[int]]) -> float:
    agreed = 0
    for images, order in zip(selections, orders, strict=True):
        moved = [images[order.index(i)] for i in range(len(order))]
        first, second = choose(images), choose(moved)
        if first and second:
            agreed += order[second - 1] == first - 1
    return agreed / len(selections)
