"""Which of several images fits a description?"""

from __future__ import annotations

import numpy as np

from vlm_utils import tiny_earth
from vlm_utils.architecture import identifier
from vlm_utils.datasets.truth import Recipe, Truth, as_phrase, images_first
from vlm_utils.tiny_earth import with_article


def select(truth: Truth, rng: np.random.Generator, num_images: int) -> Recipe:
    """Which of the images fits a description that is true of exactly one of them?

    From scenes: a feature, a feature at a place, a cover or a whole caption, with distractors
    that share what the description does not decide. From captions: one of the image's captions.
    """
    if truth.has_scenes:
        rows, position, text = _select_by_scene(truth, rng, num_images)
    else:
        rows, position = _select_by_caption(truth, rng, num_images)
        captions = truth.captions[rows[position]]
        text = as_phrase(captions[rng.integers(len(captions))])
    return Recipe(tuple(rows), images_first(num_images, f"Which image shows: {text}?"),
                  identifier(position + 1), "select")


def _select_by_caption(truth: Truth, rng: np.random.Generator,
                       num_images: int) -> tuple[list[int], int]:
    """Rows and the position of the right one; no other row has one of its captions.

    Images of one class, or copies of one image, have captions in common: two answers would be
    right.
    """
    if not truth.captions[0]:
        raise ValueError("row 0 has no caption: selection needs one for each image; add a "
                         "metadata.jsonl with caption_0 to the folder")
    total = len(truth.captions)
    if num_images > total:
        raise ValueError(f"a sample of {num_images} images was asked for and there are {total}")
    if num_images > truth.most_to_select:
        raise ValueError(f"a selection of {num_images} images was asked for, and {total} images "
                         f"with captions in common allow at most {truth.most_to_select}")
    while True:
        target = int(rng.integers(total))
        alike = truth.alike(target)
        if total - len(alike) >= num_images - 1:
            break
    others = []
    for count in (min(total, 4 * num_images), total):       # few need a look at all rows
        drawn = rng.choice(total, count, replace=False)
        others = [int(row) for row in drawn if int(row) not in alike][:num_images - 1]
        if len(others) == num_images - 1:
            break
    position = int(rng.integers(num_images))
    return others[:position] + [target] + others[position:], position


def _select_by_scene(truth: Truth, rng: np.random.Generator, num_images: int):
    index = truth.index
    while True:
        target = int(rng.integers(len(truth.scenes)))
        scene = truth.scenes[target]
        style = rng.choice(["feature", "place", "cover", "caption"], p=[0.3, 0.35, 0.1, 0.25])
        if style == "cover":
            text = tiny_earth.cover_phrase(scene.cover)
            is_true = lambda s, c=scene.cover: s.cover == c  # noqa: E731
            near = [index["kind", f.kind] for f in scene.features]
        elif style == "caption":
            captions = truth.captions[target]
            text = as_phrase(captions[rng.integers(len(captions))])
            facts = tiny_earth.scene_facts(scene)
            # A caption is true of every image that shows all it says, whatever else that shows.
            is_true = lambda s, f=facts: f <= tiny_earth.scene_facts(s)  # noqa: E731
            near = [index["cover", scene.cover]] + [
                index["feature", f.kind, f.place] for f in scene.features]
        elif not scene.features:
            continue
        else:
            feature = scene.features[rng.integers(len(scene.features))]
            near = [index["cover", scene.cover], index["place", feature.place]]
            if style == "feature":
                text = with_article(feature.kind)
                is_true = lambda s, k=feature.kind: any(f.kind == k for f in s.features)  # noqa: E731
            else:
                text = tiny_earth.phrase(feature)
                near.append(index["kind", feature.kind])
                is_true = lambda s, k=feature.kind, p=feature.place: any(  # noqa: E731
                    f.kind == k and f.place == p for f in s.features)
        rows = _distractors(truth, rng, num_images - 1, near, is_true, target)
        if rows is not None:
            position = int(rng.integers(num_images))
            return rows[:position] + [target] + rows[position:], position, text


def _distractors(truth, rng, count, near, is_true, target) -> list[int] | None:
    """Rows of which the description is false: mostly ones that share something with the target."""
    rows: list[int] = []
    for _ in range(200):
        if len(rows) == count:
            return rows
        pool = near[rng.integers(len(near))] if near and rng.random() < 0.75 else None
        row = int(pool[rng.integers(len(pool))] if pool else rng.integers(len(truth.scenes)))
        if row != target and row not in rows and not is_true(truth.scenes[row]):
            rows.append(row)
    return None
