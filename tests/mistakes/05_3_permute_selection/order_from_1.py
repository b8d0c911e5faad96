# says: places in order count from 0
def permute_selection(rows: tuple[int, ...], answer: str,
                      order: list[int]) -> tuple[tuple[int, ...], str]:
    right = int(answer.removeprefix("<image_").removesuffix(">"))
    return tuple(rows[i - 1] for i in order), f"<image_{order.index(right) + 1}>"
