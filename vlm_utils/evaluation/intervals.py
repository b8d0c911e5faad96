"""How sure a number is: its interval, and a warning if that interval is too narrow to believe."""

from __future__ import annotations

from collections import defaultdict

import pandas as pd
from scipy.stats import binomtest

from vlm_utils.datasets import TaskDataset


def wilson_interval(correct: int, total: int,
                    confidence: float = 0.95) -> tuple[float, float]:
    """The true accuracies that fit `correct` of `total` (Wilson 1927).

    Returns (low, high), shares between 0 and 1. Raises ValueError if these
    two counts do not form a share.
    """
    if not 0 <= correct <= total or total == 0:
        raise ValueError(f"{correct} correct of {total} is not a valid share: "
                         "give at least one sample, and no more right ones "
                         "than there are samples")
    interval = binomtest(int(correct), int(total)).proportion_ci(
        confidence, method="wilson")
    return float(interval.low), float(interval.high)


def warn_small_samples(summary: pd.DataFrame, dataset: TaskDataset,
                       widest: float = 0.3) -> list[str]:
    """In words, which rows of a summary rest on too few samples or on too few places.

    An interval takes its samples to be independent. Questions about one place, or one image, are
    not: at worst all of them are right or all are wrong, and the samples are worth no more than
    the number of samples that the places shown can fill once (effective sample size, Kish 1965).
    A row is named if its interval, counted that way, is wider than `widest`, a share.
    Raises ValueError if the summary is not of this dataset.
    """
    truth = dataset.table.truth
    unit = "place" if any(len(rows) > 1 for rows in truth.sites) else "image"
    sites_of: dict[tuple[str, int], list[set[int]]] = defaultdict(list)    # one set per sample
    for recipe in dataset.recipes:
        sites_of[recipe.task, recipe.num_images].append({truth.site_of(r) for r in recipe.rows})
    warnings = []
    for row in summary.itertuples():
        name, samples = f"{row.task} of {row.num_images}", sites_of[row.task, row.num_images]
        if len(samples) != row.samples:
            raise ValueError(f"{name}: the summary counts {row.samples} samples and the dataset "
                             f"holds {len(samples)}: give the dataset that was evaluated")
        sites = len(set().union(*samples))
        sites_per_sample = sum(map(len, samples)) / len(samples)
        independent = min(len(samples), max(1, round(sites / sites_per_sample)))
        low, high = wilson_interval(round(row.accuracy * independent), independent)
        if high - low <= widest:
            continue
        width = f"{low:.0%} to {high:.0%}, {100 * (high - low):.0f} points wide"
        if independent < len(samples):
            warnings.append(f"{name}: {len(samples)} samples show only {sites} different {unit}s. "
                            f"Its interval, {row.low:.0%} to {row.high:.0%}, is too narrow: with "
                            f"each {unit} counted once it is {width}. Add images.")
        else:
            warnings.append(f"{name}: {len(samples)} samples of {sites} different {unit}s leave "
                            f"an interval of {width}. Ask more samples.")
    return warnings
