"""Other ways to write the same frames: TEOChat's prompt, shuffled dates, frames taken away."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from vlm_utils.architecture import IDENTIFIER_PATTERN, IMAGE_TOKEN
from vlm_utils.datasets import Recipe, TaskDataset
from vlm_utils.datasets.dates import dates_of, with_dates


def dated(dataset: TaskDataset, shuffle: bool = False, seed: int = 0) -> TaskDataset:
    """The same questions with the month of each image before it: "2019-03: <image>".

    shuffle: each sample's dates in another order than its images, which stay where they are: what
    a model answers then shows whether it reads the dates. Raises ValueError if dates are not known.
    """
    rng = np.random.default_rng(seed)
    recipes = []
    for recipe in dataset.recipes:
        dates = dates_of(recipe, dataset.table.truth)
        if shuffle and len(set(dates)) > 1:
            order = list(dates)
            while dates == order:
                dates = [dates[k] for k in rng.permutation(len(dates))]
        recipes.append(with_dates(recipe, dates))
    return replace(dataset, recipes=recipes)


def teochat_prompt(prompt: str) -> str:
    """A prompt as TEOChat writes it: "Image 1: <image>Image 2: <image>What changed?".

    Names are plain text before the images, so the processor must write none of its own
    (`identifiers="none"`). A name in the text, `<image_2>`, becomes "Image 2".
    """
    text = IDENTIFIER_PATTERN.sub(lambda match: f"Image {match[1]}", prompt)
    pieces = text.split(IMAGE_TOKEN)
    if len(pieces) == 2:                        # one image has no number
        return f"{pieces[0]}Image: {IMAGE_TOKEN}{pieces[1]}"
    return pieces[0] + "".join(f"Image {k}: {IMAGE_TOKEN}{piece}"
                               for k, piece in enumerate(pieces[1:], start=1))


def as_teochat(dataset: TaskDataset) -> TaskDataset:
    """The same questions and answers with TEOChat's names for the images."""
    def rewritten(recipe: Recipe) -> Recipe:
        answer = recipe.answer and IDENTIFIER_PATTERN.sub(
            lambda match: f"Image {match[1]}", recipe.answer)
        return replace(recipe, prompt=teochat_prompt(recipe.prompt), answer=answer)
    return replace(dataset, recipes=[rewritten(recipe) for recipe in dataset.recipes])
