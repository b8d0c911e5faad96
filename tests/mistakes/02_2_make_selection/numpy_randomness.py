# says: the same seed gave another sample
import numpy as np


def make_selection(shows: list[set[str]], wanted: str, num_images: int,
                   rng: np.random.Generator) -> tuple[list[int], str]:
    fits = [row for row, things in enumerate(shows) if wanted in things]
    others = [row for row in range(len(shows)) if row not in fits]
    rows = np.random.choice(others, num_images - 1, replace=False).tolist()
    position = int(rng.integers(num_images))
    rows.insert(position, int(rng.choice(fits)))
    return rows, f"<image_{position + 1}>"
