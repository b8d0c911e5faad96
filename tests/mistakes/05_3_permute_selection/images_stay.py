# says: the answer moved and the images did not
def permute_selection(rows: tuple[int, ...], answer: str,
                      order: list[int]) -> tuple[tuple[int, ...], str]:
    right = int(answer.removeprefix("<image_").removesuffix(">")) - 1
    return rows, f"<image_{order.index(right) + 1}>"
