"""What changed between two images, and what happens over several."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from vlm_utils import tiny_earth
from vlm_utils.architecture import identifier
from vlm_utils.datasets.truth import Recipe, Truth, as_phrase, distinct_rows, images_first

COMPARE_PROMPT = "What changed?"
SEQUENCE_PROMPT = "What happens over time?"


def compare(truth: Truth, rng: np.random.Generator, num_images: int = 2) -> Recipe:
    """What changed between two images of one site? A fifth of the answers is "nothing".

    From captions alone there is no site seen twice: the answer says what each image shows.
    """
    if truth.has_scenes:
        return _compare_by_scene(truth, rng)
    rows = distinct_rows(truth, rng, 2)
    if not truth.captions[rows[0]] or not truth.captions[rows[1]]:
        return Recipe(tuple(sorted(rows)), images_first(2, COMPARE_PROMPT), None, "compare")
    first, second = (truth.captions[r][rng.integers(len(truth.captions[r]))] for r in rows)
    return Recipe(tuple(rows), images_first(2, "What is the difference?"),
                  caption_pair(first, second), "compare")


def sequence(truth: Truth, rng: np.random.Generator, num_images: int) -> Recipe:
    """What happens over several frames of one site, forwards or backwards in time?"""
    rows = rows_of_site(truth, rng, num_images)
    prompt = images_first(num_images, SEQUENCE_PROMPT)
    if not truth.has_scenes:
        return Recipe(rows, prompt, None, "sequence")
    if rng.random() < 0.5:
        rows = rows[::-1]
    answer = tiny_earth.describe_sequence([truth.scenes[r] for r in rows])
    return Recipe(rows, prompt, answer, "sequence")


def caption_pair(first: str, second: str) -> str:
    """The answer to a comparison of two images of which only captions are known."""
    return f"{identifier(1)}: {as_phrase(first)}; {identifier(2)}: {as_phrase(second)}."


def rows_of_site(truth: Truth, rng: np.random.Generator, num_images: int) -> tuple[int, ...]:
    """So many images of one site, in order of time. Raises ValueError if no site has as many."""
    sites = truth.sites_by_length.get(num_images)
    if not sites:
        longest = max(truth.sites_by_length, default=0)
        raise ValueError(f"a sequence of {num_images} images was asked for and the longest of "
                         f"this data set has {longest}")
    rows = sites[rng.integers(len(sites))]
    kept = np.sort(rng.choice(len(rows), num_images, replace=False))
    return tuple(rows[i] for i in kept)


def pair_of_site(truth: Truth, rng: np.random.Generator) -> tuple[int, int]:
    """Two images of one site, in either order; a fifth of the pairs shows no change."""
    wants_change = rng.random() >= 0.2
    for _ in range(1000 * bool(truth.sites)):
        rows = truth.sites[rng.integers(len(truth.sites))]
        pairs = _pairs_of(truth, [rows], wants_change)
        if pairs:
            break
    else:                                       # hardly any: all of them, or all of the others
        pairs = (_pairs_of(truth, truth.sites, wants_change)
                 or _pairs_of(truth, truth.sites, not wants_change))
        if not pairs:
            raise ValueError("no place of this data set is seen twice: a comparison needs images "
                             "of one place at two times, as load_series_table(split) has them")
    first, second = pairs[rng.integers(len(pairs))]
    if rng.random() < 0.5:
        first, second = second, first
    return first, second


def _pairs_of(truth: Truth, sites: Iterable[Sequence[int]], changed: bool) -> list[tuple[int, int]]:
    """Pairs of rows of one site between which something has changed, or nothing."""
    return [(a, b) for rows in sites for i, a in enumerate(rows) for b in rows[i + 1:]
            if (truth.scenes[a] != truth.scenes[b]) == changed]


def _compare_by_scene(truth: Truth, rng: np.random.Generator) -> Recipe:
    first, second = pair_of_site(truth, rng)
    answer = tiny_earth.describe_change(truth.scenes[first], truth.scenes[second])
    return Recipe((first, second), images_first(2, COMPARE_PROMPT), answer, "compare")
