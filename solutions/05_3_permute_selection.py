def permute_selection(rows: tuple[int, ...], answer: str,
                      order: list[int]) -> tuple[tuple[int, ...], str]:
    """The same images in another order, and the answer that is then right.

    rows: the image at each place. Afterwards place i holds the image that
    stood at place order[i]; places count from 0. The answer names its
    place as identifiers do, from 1: "<image_2>".
    """
    right = int(answer.removeprefix("<image_").removesuffix(">")) - 1
    moved = tuple(rows[i] for i in order)
    return moved, f"<image_{order.index(right) + 1}>"
