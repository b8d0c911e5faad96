# says: the answer counts from 0
import numpy as np


def make_selection(shows: list[set[str]], wanted: str, num_images: int,
                   rng: np.random.Generator) -> tuple[list[int], str]:
    fits = [row for row, things in enumerate(shows) if wanted in things]
    others = [row for row in range(len(shows)) if row not in fits]
    rows = rng.choice(others, num_images - 1, replace=False).tolist()
    rows.append(int(rng.choice(fits)))
    right = rows[-1]
    rng.shuffle(rows)
    return rows, f"<image_{rows.index(right)}>"
