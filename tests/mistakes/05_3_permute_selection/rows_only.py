# says: return two things: the rows and the answer
def permute_selection(rows: tuple[int, ...], answer: str,
                      order: list[int]) -> tuple[tuple[int, ...], str]:
    return tuple(rows[i] for i in order)
