# says: the images were moved by the inverse
def permute_selection(rows: tuple[int, ...], answer: str,
                      order: list[int]) -> tuple[tuple[int, ...], str]:
    right = int(answer.removeprefix("<image_").removesuffix(">")) - 1
    moved = list(rows)
    for row, place in zip(rows, order, strict=True):
        moved[place] = row
    return tuple(moved), f"<image_{order.index(right) + 1}>"
