"""Controls: the same questions, with something taken away, moved or added."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from torch import Tensor

from vlm_utils import tiny_earth
from vlm_utils.architecture import IDENTIFIER_PATTERN, IMAGE_TOKEN, identifier, named_images
from vlm_utils.datasets import Recipe, TaskDataset, Truth


def blind(dataset: TaskDataset) -> TaskDataset:
    """Every image replaced by the mean of all: what can be answered without seeing?

    Raises ValueError where the images are not encoded.
    """
    table = dataset.table
    if table.image_features is None:
        raise ValueError("blind needs encoded images: set table.image_features = "
                         "encode_table(table, model, processor)")
    count = len(table.image_features)
    mean = table.image_features[list(range(count))].float().mean(dim=0)     # (patches, dim)
    unseen = replace(table, image_features=_Everywhere(mean, count))
    return replace(dataset, table=unseen)


def shuffled(dataset: TaskDataset, seed: int = 0) -> TaskDataset:
    """The images of another sample of the same task and number of images; answers stay.

    Raises ValueError where a sample is the only one of its task and number of images.
    """
    rng = np.random.default_rng(seed)
    recipes = list(dataset.recipes)
    groups: dict[tuple, list[int]] = {}
    for i, recipe in enumerate(recipes):
        groups.setdefault((recipe.task, len(recipe.rows)), []).append(i)
    for (task, num_images), members in groups.items():
        if len(members) == 1:
            raise ValueError(f"the only sample of {task!r} with {num_images} images: there is no "
                             "other to take images from")
        turned = rng.permutation(members)
        for i, j in zip(turned, np.roll(turned, 1), strict=True):
            recipes[i] = replace(dataset.recipes[i], rows=dataset.recipes[j].rows)
    return replace(dataset, recipes=recipes)


def permuted(dataset: TaskDataset, seed: int = 0) -> TaskDataset:
    """Selections with their images in another order, each, and the answers moved with them."""
    rng = np.random.default_rng(seed)
    recipes = []
    for recipe in dataset.recipes:
        if recipe.task != "select":
            raise ValueError(f"only selections can be permuted, not {recipe.task!r}: "
                             "use dataset.of_task('select')")
        same = order = np.arange(len(recipe.rows))
        while len(same) > 1 and (order == same).all():  # by chance half of the pairs would stay
            order = rng.permutation(len(same))
        answer = int(np.flatnonzero(order == named_images(recipe.answer)[0] - 1)[0])
        recipes.append(replace(recipe, rows=tuple(recipe.rows[i] for i in order),
                               answer=identifier(answer + 1)))
    return replace(dataset, recipes=recipes)


def with_unrelated(dataset: TaskDataset, seed: int = 0, max_images: int = 8) -> TaskDataset:
    """One more image, of another place, at a random position: names move along, truth stays.

    A selection gets an image that shares neither cover nor any kind of thing with the right one:
    nothing that is said of the right one is then true of it. Without scenes, it shares no caption.
    A question about one image (refer) gets any image. max_images: of the processor.
    Raises ValueError for other tasks, for samples that are full, and where no such image is left.
    """
    rng = np.random.default_rng(seed)
    truth = dataset.table.truth
    recipes = []
    for i, recipe in enumerate(dataset.recipes):
        if recipe.task not in ("select", "refer"):
            raise ValueError(f"sample {i} is of {recipe.task!r}, whose answer another image could "
                             "change: use dataset.of_task('select') or dataset.of_task('refer')")
        if len(recipe.rows) >= max_images:
            raise ValueError(f"sample {i} has {len(recipe.rows)} images and the model has names "
                             f"for {max_images}: take samples of fewer images")
        row = _unrelated_row(recipe, truth, rng)
        if row is None:
            raise ValueError(f"sample {i}: none of the {len(truth.scenes)} images shows another "
                             "place and surely something else: use a table with more images")
        recipes.append(_insert_image(recipe, row, int(rng.integers(len(recipe.rows) + 1))))
    return replace(dataset, recipes=recipes)


def reversed_frames(dataset: TaskDataset) -> TaskDataset:
    """Sequences backwards in time, with the answers that are true of them then."""
    scenes = dataset.table.truth.scenes
    recipes = []
    for recipe in dataset.recipes:
        rows = recipe.rows[::-1]
        answer = tiny_earth.describe_sequence([scenes[r] for r in rows])
        recipes.append(replace(recipe, rows=rows, answer=answer))
    return replace(dataset, recipes=recipes)


class _Everywhere:
    """Encoded images of which every one is the same (ImageFeatures)."""

    def __init__(self, features: Tensor, count: int):
        self.features, self.count = features, count                 # features: (patches, dim)

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, rows: list[int]) -> Tensor:
        return self.features.expand(len(rows), *self.features.shape)


def _unrelated_row(recipe: Recipe, truth: Truth, rng: np.random.Generator) -> int | None:
    """A random image of another place than a sample's, not to be taken for the right one."""
    seen = {truth.site_of(row) for row in recipe.rows}
    right = None
    if recipe.task == "select":
        right = recipe.rows[named_images(recipe.answer)[0] - 1]
    for row in map(int, rng.permutation(len(truth.scenes))):
        if truth.site_of(row) not in seen and (right is None or not _share(truth, row, right)):
            return row
    return None


def _share(truth: Truth, row: int, other: int) -> bool:
    """Could something that is said of one image be true of the other?"""
    if not truth.has_scenes:
        return bool(set(truth.captions[row]) & set(truth.captions[other]))
    first, second = truth.scenes[row], truth.scenes[other]
    kinds = {f.kind for f in first.features} & {f.kind for f in second.features}
    return first.cover == second.cover or bool(kinds)


def _insert_image(recipe: Recipe, row: int, position: int) -> Recipe:
    """The image `row` before image `position`, counted from 0, or right behind the last one."""
    def renamed(text: str) -> str:
        return IDENTIFIER_PATTERN.sub(
            lambda m: identifier(int(m[1]) + (int(m[1]) > position)), text)

    pieces = renamed(recipe.prompt).split(IMAGE_TOKEN)      # placeholder k follows piece k
    pieces.insert(min(position + 1, len(recipe.rows)), "")
    rows = (*recipe.rows[:position], row, *recipe.rows[position:])
    answer = None if recipe.answer is None else renamed(recipe.answer)
    return replace(recipe, rows=rows, prompt=IMAGE_TOKEN.join(pieces), answer=answer)
