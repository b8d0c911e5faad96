# says: the images moved and the answer did not
def permute_selection(rows: tuple[int, ...], answer: str,
                      order: list[int]) -> tuple[tuple[int, ...], str]:
    return tuple(rows[i] for i in order), answer
