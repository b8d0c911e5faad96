"""Pairs of frames that differ although nothing happened: clouds, seasons, a repeated picture."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from vlm_utils.datasets import COMPARE_PROMPT, Recipe, Truth, images_first
from vlm_utils.tiny_earth import Conditions, describe_change

# What two frames of a site have in common, by how they were taken (the first is the earlier one).
WEATHER: dict[str, Callable[[Conditions, Conditions], bool]] = {
    "clear": lambda a, b: a == b == Conditions(),
    "clouds": lambda a, b: bool(a.cloud or b.cloud),
    "seasons": lambda a, b: a.season != b.season,
    "repeats": lambda a, b: b.repeats}


def weather_pairs(truth: Truth, weather: str, changed: bool, samples: int,
                  seed: int = 0) -> list[Recipe]:
    """Comparisons of two frames of a site, drawn at random among those taken in some weather.

    weather: one of WEATHER. "repeats" are neighbouring frames, the second of which is the very
    picture of the first; of the others, any two. changed: pairs between which something happened,
    or pairs between which nothing did: a change that is reported there is a false alarm.
    Returns at most so many samples, each pair once. Raises ValueError for a weather that is not
    known, and for a table that does not say how its frames were taken.
    """
    if weather not in WEATHER:
        raise ValueError(f"unknown weather {weather!r}, not one of {tuple(WEATHER)}")
    if not truth.conditions:
        raise ValueError("this table does not say how its frames were taken: take the one that "
                         "load_series_table returns")
    fits, found = WEATHER[weather], []
    for rows in truth.sites:
        for i, first in enumerate(rows):
            for second in rows[i + 1:i + 2 if weather == "repeats" else None]:
                before, after = (truth.conditions[row] for row in (first, second))
                if fits(before, after) and changed == (truth.scenes[first] != truth.scenes[second]):
                    found.append((first, second))
    chosen = np.random.default_rng(seed).permutation(len(found))[:samples]
    return [Recipe(found[k], images_first(2, COMPARE_PROMPT),
                   describe_change(*(truth.scenes[row] for row in found[k])), "compare")
            for k in sorted(chosen.tolist())]
