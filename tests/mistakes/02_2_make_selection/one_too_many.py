# says: 4 images were chosen, and num_images is 3
import numpy as np


def make_selection(shows: list[set[str]], wanted: str, num_images: int,
                   rng: np.random.Generator) -> tuple[list[int], str]:
    fits = [row for row, things in enumerate(shows) if wanted in things]
    others = [row for row in range(len(shows)) if row not in fits]
    rows = rng.choice(others, num_images, replace=False).tolist()
    position = int(rng.integers(num_images))
    rows.insert(position, int(rng.choice(fits)))
    return rows, f"<image_{position + 1}>"
