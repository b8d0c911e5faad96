# says: the answer names the row of the table
import numpy as np


def make_selection(shows: list[set[str]], wanted: str, num_images: int,
                   rng: np.random.Generator) -> tuple[list[int], str]:
    fits = [row for row, things in enumerate(shows) if wanted in things]
    others = [row for row in range(len(shows)) if row not in fits]
    right = int(rng.choice(fits))
    rows = [right, *rng.choice(others, num_images - 1, replace=False).tolist()]
    rng.shuffle(rows)
    return rows, f"<image_{right}>"
