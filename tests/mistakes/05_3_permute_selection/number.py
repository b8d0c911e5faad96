# says: the answer is an identifier, as a text
def permute_selection(rows: tuple[int, ...], answer: str,
                      order: list[int]) -> tuple[tuple[int, ...], str]:
    right = int(answer.removeprefix("<image_").removesuffix(">")) - 1
    return tuple(rows[i] for i in order), order.index(right) + 1
