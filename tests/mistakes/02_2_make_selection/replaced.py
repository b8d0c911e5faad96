# says: an image stands in the sample twice
import numpy as np


def make_selection(shows: list[set[str]], wanted: str, num_images: int,
                   rng: np.random.Generator) -> tuple[list[int], str]:
    fits = [row for row, things in enumerate(shows) if wanted in things]
    others = [row for row in range(len(shows)) if row not in fits]
    rows = [int(rng.choice(others)) for _ in range(num_images - 1)]
    position = int(rng.integers(num_images))
    rows.insert(position, int(rng.choice(fits)))
    return rows, f"<image_{position + 1}>"
