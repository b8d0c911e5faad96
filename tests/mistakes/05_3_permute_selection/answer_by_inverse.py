# says: the answer was moved by the inverse
def permute_selection(rows: tuple[int, ...], answer: str,
                      order: list[int]) -> tuple[tuple[int, ...], str]:
    right = int(answer.removeprefix("<image_").removesuffix(">")) - 1
    return tuple(rows[i] for i in order), f"<image_{order[right] + 1}>"
