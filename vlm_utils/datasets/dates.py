"""Dates: written before the images of a prompt, and asked for.

Timestamps as text before each frame are what video models came to (SmolVLM2, Qwen3-VL). A prompt
with dates reads "2019-03: <image> 2019-07: <image> When did the road appear?".
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from vlm_utils.architecture import IMAGE_TOKEN
from vlm_utils.datasets.boxes import moments
from vlm_utils.datasets.changes import rows_of_site
from vlm_utils.datasets.truth import Recipe, Truth, images_first

MONTH = len("2019-03")      # of an ISO date: nobody sees the day in the picture


def date(truth: Truth, rng: np.random.Generator, num_images: int) -> Recipe:
    """When did it happen? The month of the first image that shows it.

    Only images and dates together can tell. The prompt has no dates yet: see `with_dates`.
    """
    rows, what, frame = _something_that_happens(truth, rng, num_images)
    return Recipe(rows, images_first(num_images, f"When did {what}?"),
                  truth.dates[rows[frame]][:MONTH], "date")


def before(truth: Truth, rng: np.random.Generator, num_images: int) -> Recipe:
    """Did it happen before a year? As often yes as no. The prompt has no dates yet.

    The answer names the month first: "In 2019-03, so yes." Raises ValueError for fewer than 3
    images: of two, the last shows it, and no year is later.
    """
    if num_images < 3:
        raise ValueError(f"\"before\" needs at least 3 images, not {num_images}")
    is_before = rng.random() < 0.5
    while True:
        rows, what, frame = _something_that_happens(truth, rng, num_images)
        start, moment, end = (int(truth.dates[rows[k]][:4]) for k in (0, frame, -1))
        # Years that the frames reach, so that the first date alone does not give it away.
        years = range(moment + 1, end + 1) if is_before else range(start + 1, moment + 1)
        if years:
            year = int(rng.choice(list(years)))
            return Recipe(rows, images_first(num_images, f"Did {what} before {year}?"),
                          f"In {truth.dates[rows[frame]][:MONTH]}, so "
                          f"{'yes' if is_before else 'no'}.", "before")


def months(truth: Truth, rng: np.random.Generator, num_images: int) -> Recipe:
    """How many months after the first image did it happen? The prompt has no dates yet.

    The answer writes down what it computes with (chain of thought, Wei et al. 2022): "From 2018-01
    to 2019-03, so 14." Our small model learns to find the dates, and not to subtract them: a
    program can do that with what the answer says, and with a bare number it could not.
    """
    rows, what, frame = _something_that_happens(truth, rng, num_images)
    first, then = (truth.dates[rows[k]][:MONTH] for k in (0, frame))
    question = f"How many months after the first image did {what}?"
    return Recipe(rows, images_first(num_images, question), months_between(first, then), "months")


def months_between(first: str, then: str) -> str:
    """The answer of `months` for two dates: "From 2018-01 to 2019-03, so 14." """
    return f"From {first} to {then}, so {_month_number(then) - _month_number(first)}."


def with_dates(recipe: Recipe, dates: Sequence[str]) -> Recipe:
    """The recipe with a date as text before each of its images.

    dates: one text per image, as long as you want the model to read it. Raises ValueError, with
    both numbers, if there are more or fewer, and names an image whose date is not known.
    """
    pieces = recipe.prompt.split(IMAGE_TOKEN)
    if len(pieces) - 1 != len(dates):
        raise ValueError(f"{len(dates)} dates were given for {len(pieces) - 1} images: write one "
                         "for each")
    for position, day in enumerate(dates, start=1):
        if not day:
            raise ValueError(f"the date of image {position} is not known")
    written = [f"{piece}{day}: {IMAGE_TOKEN} " for piece, day in zip(pieces, dates, strict=False)]
    return Recipe(recipe.rows, "".join(written) + pieces[-1], recipe.answer, recipe.task)


def dates_of(recipe: Recipe, truth: Truth) -> list[str]:
    """The month of each image of a recipe, "2019-03". Raises ValueError if dates are not known."""
    if not truth.dates:
        raise ValueError("this table knows no dates: name the files by date (2019-03-17.png), or "
                         "add a column date to the folder's metadata")
    return [truth.dates[row][:MONTH] for row in recipe.rows]


def _something_that_happens(truth, rng, num_images) -> tuple[tuple[int, ...], str, int]:
    """Rows of a site, what happens there, and the frame that shows it first."""
    while True:
        rows = rows_of_site(truth, rng, num_images)
        known = moments([truth.scenes[row] for row in rows])
        if known:
            what, frame = known[rng.integers(len(known))]
            return rows, what, frame


def _month_number(day: str) -> int:
    return 12 * int(day[:4]) + int(day[5:7])
