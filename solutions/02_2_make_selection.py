import numpy as np


def make_selection(shows: list[set[str]], wanted: str, num_images: int,
                   rng: np.random.Generator) -> tuple[list[int], str]:
    """Rows of a sample for "Which image shows: ...?", and its answer.

    shows[row] is what the image in that row shows. Exactly one of the
    num_images different rows shows what is wanted, at a random position.
    The answer names that position, from 1: "<image_2>".
    """
    fits = [row for row, things in enumerate(shows) if wanted in things]
    others = [row for row in range(len(shows)) if row not in fits]
    rows = rng.choice(others, num_images - 1, replace=False).tolist()
    position = int(rng.integers(num_images))
    rows.insert(position, int(rng.choice(fits)))
    return rows, f"<image_{position + 1}>"
