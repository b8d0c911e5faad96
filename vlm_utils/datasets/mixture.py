"""Many samples of many tasks: "select 3" or "sequence 2-4", so many of each."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from vlm_utils.datasets.boxes import locate, locate_change, when
from vlm_utils.datasets.by_name import cover, each, inventory, refer
from vlm_utils.datasets.changes import compare, sequence
from vlm_utils.datasets.dates import before, date, months
from vlm_utils.datasets.one_image import ask, describe
from vlm_utils.datasets.samples import TaskDataset
from vlm_utils.datasets.selection import select
from vlm_utils.datasets.tables import ImageTable
from vlm_utils.datasets.truth import Recipe, Truth

TASKS: dict[str, Callable[..., Recipe]] = {
    "describe": describe, "ask": ask, "select": select, "compare": compare,
    "sequence": sequence, "refer": refer, "cover": cover, "each": each,
    "inventory": inventory, "locate": locate, "locate_change": locate_change, "when": when,
    "date": date, "before": before, "months": months}


def is_free_text(task: str, truth: Truth) -> bool:
    """Are there many right answers to a question of this task, and not one that can be demanded?

    So it is for descriptions, and without scenes for all but selections: any caption of an image
    is a right answer.
    """
    return task == "describe" or (not truth.has_scenes and task != "select")


class Part(NamedTuple):
    """One entry of a mixture: how many samples of a task, with fewest to most images each."""

    task: str
    fewest: int
    most: int
    samples: int


def parse_mixture(mixture: dict[str, int]) -> list[Part]:
    """{"select 3": 100, "sequence 2-4": 50} as parts.

    Raises ValueError for an unknown task, and for a number of images that is missing, below 1 or
    a range turned round.
    """
    parts = []
    for name, samples in mixture.items():
        task, _, numbers = name.partition(" ")
        if task not in TASKS:
            raise ValueError(f"unknown task {task!r}: choose from {list(TASKS)}")
        match = re.fullmatch(r"(\d+)(?:-(\d+))?", numbers)
        fewest, most = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
        if not 1 <= fewest <= most:
            raise ValueError(f"{name!r}: write the task and its number of images, as \"select 3\", "
                             "or the fewest and the most, as \"sequence 2-4\"")
        if samples < 0:
            raise ValueError(f"{name!r}: {samples} samples were asked for")
        parts.append(Part(task, fewest, most, samples))
    return parts


def most_images(mixture: dict[str, int], task: str) -> int:
    """The most images of any sample of a task in a mixture; 0 if it has none."""
    return max((part.most for part in parse_mixture(mixture) if part.task == task), default=0)


def build_recipes(truth: Truth, mixture: dict[str, int], seed: int) -> list[Recipe]:
    """Samples of each task, {"select 3": 100, "sequence 2-4": 50}, shuffled, without repeats.

    A range of numbers of images is drawn from evenly. If a data set is too small to hold that
    many different samples, there are fewer. Raises ValueError as parse_mixture.
    """
    rng = np.random.default_rng(seed)
    recipes: list[Recipe] = []
    for part in parse_mixture(mixture):
        made: dict[Recipe, None] = {}
        for _ in range(3 * part.samples):
            if len(made) == part.samples:
                break
            num_images = part.fewest + int(rng.integers(part.most - part.fewest + 1))
            made[TASKS[part.task](truth, rng, num_images)] = None
        recipes += made
    return [recipes[i] for i in rng.permutation(len(recipes))]


def build_tasks(table: ImageTable, mixture: dict[str, int], seed: int) -> TaskDataset:
    """The samples of a mixture over one split."""
    return TaskDataset(table, build_recipes(table.truth, feasible(table.truth, mixture), seed))


def feasible(truth: Truth, mixture: dict[str, int]) -> dict[str, int]:
    """The part of a mixture that the data can tell: what needs scenes is left out without them.

    From captions: describe, select, compare, refer. From frames alone: describe, compare,
    sequence, without answers.
    """
    if truth.has_scenes:
        return mixture
    can = {"describe", "select", "compare", "refer"} if truth.has_captions \
        else {"describe", "compare", "sequence"}
    longest = max((len(rows) for rows in truth.sites), default=1)
    limits = {"sequence": longest, "select": truth.most_to_select}
    return {name: part.samples for name, part in zip(mixture, parse_mixture(mixture), strict=True)
            if part.task in can and part.most <= limits.get(part.task, len(truth.scenes))}
