from collections.abc import Callable


def permutation_agreement(choose: Callable, selections: list[tuple],
                          orders: list[list[int]]) -> float:
    """Share of selections in which a model picks the same image twice.

    choose(images) is the model: the number of the image it picks, from 1,
    or None if its answer cannot be read, which counts as disagreement.
    Ask it once with the images as they are, and once with them moved:
    place i then holds image order[i].
    """
    agreed = 0
    for images, order in zip(selections, orders, strict=True):
        first = choose(images)
        second = choose([images[i] for i in order])
        if first is not None and second is not None:
            agreed += order[second - 1] == first - 1
    return agreed / len(selections)
