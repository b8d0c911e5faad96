"""Controls: the same questions, with something taken away, moved or added."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace

import numpy as np

from vlm_utils import tiny_earth
from vlm_utils.architecture import IDENTIFIER_PATTERN, IMAGE_TOKEN, identifier, named_images
from vlm_utils.datasets import Recipe, TaskDataset, Truth


def blind(dataset: TaskDataset) -> TaskDataset:
    """Every image becomes the mean of all: what can be answered unseen?

    Raises ValueError if the images are not encoded.
    """
    features = dataset.table.image_features
    if features is None:
        raise ValueError(
            "blind needs encoded images: set table.image_features = "
            "encode_table(table, model, processor)")
    count = len(features)
    mean = features[list(range(count))].float().mean(dim=0)  # (patches, dim)
    unseen = mean.expand(count, *mean.shape)    # a view: nothing is copied
    table = replace(dataset.table, image_features=unseen)
    return replace(dataset, table=table)


def shuffled(dataset: TaskDataset, seed: int = 0) -> TaskDataset:
    """Each sample sees the images of another one; its answer stays.

    The other one has the same task and as many images. Raises ValueError
    if a sample is the only one of its kind.
    """
    rng = np.random.default_rng(seed)
    kinds = defaultdict(list)
    for i, recipe in enumerate(dataset.recipes):
        kinds[recipe.task, recipe.num_images].append(i)
    recipes = list(dataset.recipes)
    for (task, num_images), members in kinds.items():
        if len(members) == 1:
            raise ValueError(f"there is only one {task!r} with {num_images} "
                             "images: no other sample can lend it images")
        members = rng.permutation(members)
        for i, other in zip(members, np.roll(members, 1), strict=True):
            recipes[i] = replace(dataset.recipes[i],
                                 rows=dataset.recipes[other].rows)
    return replace(dataset, recipes=recipes)


def permuted(dataset: TaskDataset, seed: int = 0) -> TaskDataset:
    """Selections with their images in another order, the answers moved too.

    Raises ValueError for any other task.
    """
    rng = np.random.default_rng(seed)
    recipes = []
    for recipe in dataset.recipes:
        if recipe.task != "select":
            raise ValueError(
                f"only selections can be permuted, not {recipe.task!r}: use "
                "dataset.of_task('select')")
        same = order = np.arange(recipe.num_images)
        while len(same) > 1 and (order == same).all():
            order = rng.permutation(same)   # once, half of all pairs stay
        right = named_images(recipe.answer)[0] - 1      # where it was
        moved = order.tolist().index(right)             # where it is now
        recipes.append(replace(
            recipe, rows=tuple(recipe.rows[k] for k in order),
            answer=identifier(moved + 1)))
    return replace(dataset, recipes=recipes)


def reversed_frames(dataset: TaskDataset) -> TaskDataset:
    """Sequences backwards in time, with the answers that are then true."""
    scenes = dataset.table.truth.scenes
    recipes = []
    for recipe in dataset.recipes:
        rows = recipe.rows[::-1]
        answer = tiny_earth.describe_sequence([scenes[r] for r in rows])
        recipes.append(replace(recipe, rows=rows, answer=answer))
    return replace(dataset, recipes=recipes)


def with_unrelated(dataset: TaskDataset, seed: int = 0,
                   max_images: int | None = None) -> TaskDataset:
    """One more image, of another place, at a random position: names move along, truth stays.

    A selection gets an image that shares neither cover nor any kind of thing with the right one,
    so its description cannot fit it; without scenes, the two share no caption. A question about
    one image (refer) gets any image. max_images: for how many the processor has names.
    Raises ValueError for other tasks, for samples that are full, and if no such image is left.
    """
    rng = np.random.default_rng(seed)
    truth = dataset.table.truth
    recipes = []
    for i, recipe in enumerate(dataset.recipes):
        if recipe.task not in ("select", "refer"):
            raise ValueError(f"sample {i} is of {recipe.task!r}, whose answer another image could "
                             "change: use dataset.of_task('select') or dataset.of_task('refer')")
        if max_images is not None and recipe.num_images >= max_images:
            raise ValueError(f"sample {i} has {recipe.num_images} images and the model has names "
                             f"for {max_images}: take samples of fewer images")
        row = _unrelated_row(recipe, truth, rng)
        if row is None:
            raise ValueError(f"sample {i}: none of the {len(truth.scenes)} images is both of "
                             "another place and sure not to fit: use a table with more images")
        recipes.append(_insert_image(recipe, row, int(rng.integers(recipe.num_images + 1))))
    return replace(dataset, recipes=recipes)


def _unrelated_row(recipe: Recipe, truth: Truth, rng: np.random.Generator) -> int | None:
    """A random image of another place, one that cannot be taken for the right one; else None."""
    seen = {truth.site_of(row) for row in recipe.rows}
    right = None
    if recipe.task == "select":
        right = recipe.rows[named_images(recipe.answer)[0] - 1]
    for row in map(int, rng.permutation(len(truth.scenes))):
        if truth.site_of(row) not in seen and (right is None or not _share(truth, row, right)):
            return row
    return None


def _share(truth: Truth, row: int, other: int) -> bool:
    """Could a description of one image fit the other?"""
    if not truth.has_scenes:
        return row in truth.alike(other)
    first, second = truth.scenes[row], truth.scenes[other]
    kinds = {f.kind for f in first.features} & {f.kind for f in second.features}
    return first.cover == second.cover or bool(kinds)


def _insert_image(recipe: Recipe, row: int, position: int) -> Recipe:
    """The image `row` before image `position`, counted from 0, or right after the last one."""
    def renamed(text: str) -> str:
        return IDENTIFIER_PATTERN.sub(
            lambda m: identifier(int(m[1]) + (int(m[1]) > position)), text)

    pieces = renamed(recipe.prompt).split(IMAGE_TOKEN)      # placeholder k follows piece k
    pieces.insert(min(position + 1, recipe.num_images), "")
    rows = (*recipe.rows[:position], row, *recipe.rows[position:])
    answer = None if recipe.answer is None else renamed(recipe.answer)
    return replace(recipe, rows=rows, prompt=IMAGE_TOKEN.join(pieces), answer=answer)
