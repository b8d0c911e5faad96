"""Many samples of many tasks: "select 3" or "sequence 2-4", so many of each."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from vlm_utils.datasets.by_name import cover, each, inventory, refer
from vlm_utils.datasets.changes import compare, sequence
from vlm_utils.datasets.one_image import ask, describe
from vlm_utils.datasets.samples import TaskDataset
from vlm_utils.datasets.selection import select
from vlm_utils.datasets.tables import ImageTable
from vlm_utils.datasets.truth import Recipe, Truth

TASKS: dict[str, Callable[..., Recipe]] = {
    "describe": describe, "ask": ask, "select": select, "compare": compare,
    "sequence": sequence, "refer": refer, "cover": cover, "each": each,
    "inventory": inventory}


def is_free_text(task: str, truth: Truth) -> bool:
    """Are there many right answers to a question of this task, and not one that can be demanded?

    So it is for descriptions, and without scenes for all but selections: any caption of an image
    is a right answer.
    """
    return task == "describe" or (not truth.has_scenes and task != "select")


def build_recipes(truth: Truth, mixture: dict[str, int], seed: int) -> list[Recipe]:
    """Samples of each task: {"select 3": 100, "sequence 2-4": 50}, shuffled, without repeats.

    A range of numbers of images is drawn from evenly. Where a data set is too small to hold that
    many different samples, there are fewer. Raises ValueError for an unknown task.
    """
    rng = np.random.default_rng(seed)
    recipes: list[Recipe] = []
    for name, count in mixture.items():
        task, _, numbers = name.partition(" ")
        if task not in TASKS:
            raise ValueError(f"unknown task {task!r}: choose from {list(TASKS)}")
        low, _, high = numbers.partition("-")
        choices = range(int(low), int(high or low) + 1)
        made: dict[Recipe, None] = {}
        for _ in range(3 * count):
            if len(made) == count:
                break
            num_images = int(choices[rng.integers(len(choices))])
            made[TASKS[task](truth, rng, num_images)] = None
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
    kept = {}
    longest = max((len(p) for p in truth.places), default=1)
    for name, count in mixture.items():
        task, _, numbers = name.partition(" ")
        most = int(numbers.split("-")[-1])
        limit = longest if task == "sequence" else len(truth.scenes)
        if task in can and most <= limit:
            kept[name] = count
    return kept
