"""How sure a number is: intervals, and warnings where they mislead."""

from __future__ import annotations

from collections import defaultdict

import pandas as pd
from scipy.stats import binomtest

from vlm_utils.datasets import TaskDataset


def wilson_interval(correct: int, total: int, confidence: float = 0.95) -> tuple[float, float]:
    """Where the true accuracy lies, from `correct` of `total` (Wilson 1927), as shares."""
    if not 0 <= correct <= total or total == 0:
        raise ValueError(f"{correct} correct of {total} is no share")
    interval = binomtest(int(correct), int(total)).proportion_ci(confidence, method="wilson")
    return float(interval.low), float(interval.high)


def warn_small_samples(summary: pd.DataFrame, dataset: TaskDataset,
                       widest: float = 0.3) -> list[str]:
    """In words, which rows of a summary mean little: too few samples, or too few images.

    An interval takes its samples for independent. Questions about one place, or one image, are
    not: at worst they are right or wrong together, and there are only as many independent samples
    as the places shown can fill once (effective sample size, Kish 1965). Named is a row whose
    interval, counted so, is wider than `widest`, as a share.
    Raises ValueError where the summary is not of this dataset.
    """
    truth = dataset.table.truth
    unit = "place" if any(len(rows) > 1 for rows in truth.sites) else "image"
    asked, shown, used = defaultdict(int), defaultdict(set), defaultdict(int)
    for recipe in dataset.recipes:
        key = recipe.task, len(recipe.rows)
        sites = {truth.site_of(row) for row in recipe.rows}
        asked[key] += 1
        shown[key] |= sites
        used[key] += len(sites)
    warnings = []
    for row in summary.itertuples():
        key, name = (row.task, row.num_images), f"{row.task} of {row.num_images}"
        if asked[key] != row.samples:
            raise ValueError(f"{name}: the summary counts {row.samples} samples, the dataset holds "
                             f"{asked[key]}: give the dataset that was evaluated")
        sites = len(shown[key])
        independent = min(row.samples, max(1, round(sites * row.samples / used[key])))
        low, high = wilson_interval(round(row.accuracy * independent), independent)
        if high - low <= widest:
            continue
        width = f"{low:.0%} to {high:.0%}, {100 * (high - low):.0f} points wide"
        if independent < row.samples:
            warnings.append(f"{name}: {row.samples} samples show only {sites} different {unit}s: "
                            f"{row.low:.0%} to {row.high:.0%} is too narrow, with each {unit} "
                            f"counted once it is {width}: add images")
        else:
            warnings.append(f"{name}: {row.samples} samples of {sites} different {unit}s leave "
                            f"{width}: ask more samples")
    return warnings
