# says: nothing has moved
def permute_selection(rows: tuple[int, ...], answer: str,
                      order: list[int]) -> tuple[tuple[int, ...], str]:
    right = int(answer.removeprefix("<image_").removesuffix(">")) - 1
    order = sorted(order)
    return tuple(rows[i] for i in order), f"<image_{order.index(right) + 1}>"
