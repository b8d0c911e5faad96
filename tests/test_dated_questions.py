"""Dates before images, and questions that only images and dates together answer."""

import re
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlm_utils.datasets import ImageTable, Recipe, TaskDataset, Truth, build_recipes
from vlm_utils.datasets.boxes import moments
from vlm_utils.datasets.dates import dates_of, with_dates
from vlm_utils.time_series import as_teochat, dated, teochat_prompt


@pytest.fixture
def dated_truth(earth_truth) -> Truth:
    """The scenes of the tests, each with a day: a site's frames are 70 days apart."""
    days = [""] * len(earth_truth.scenes)
    for site, rows in enumerate(earth_truth.sites):
        for frame, row in enumerate(rows):
            day = np.datetime64("2016-03-05") + 30 * site + 70 * frame
            days[row] = str(day)
    return Truth(earth_truth.scenes, earth_truth.captions, earth_truth.sites, days)


def asked(truth, task, lengths="3-5", samples=80):
    found = build_recipes(truth, {f"{task} {lengths}": samples}, seed=0)
    assert len(found) > 20
    return found


def moment_of(truth, recipe):
    """The frame, from 0, that shows first what a question is about."""
    what = re.search(r"(?:did|Did) (.+?)(?: before \d+)?\?", recipe.prompt)[1]
    return dict(moments([truth.scenes[row] for row in recipe.rows]))[what]


def test_a_date_is_the_month_of_the_first_image_that_shows_it(dated_truth):
    for recipe in asked(dated_truth, "date", "2-5"):
        frame = moment_of(dated_truth, recipe)
        assert recipe.answer == dated_truth.dates[recipe.rows[frame]][:7]


def test_months_are_counted_from_the_first_image(dated_truth):
    for recipe in asked(dated_truth, "months", "2-5"):
        first, then = (np.datetime64(dated_truth.dates[recipe.rows[k]][:7])
                       for k in (0, moment_of(dated_truth, recipe)))
        assert recipe.answer == f"From {first} to {then}, so {(then - first).astype(int)}."


def test_before_is_as_often_yes_as_no_and_the_first_date_does_not_tell(dated_truth):
    recipes = asked(dated_truth, "before", samples=60)
    for recipe in recipes:
        year = int(re.search(r"before (\d{4})\?", recipe.prompt)[1])
        years = [int(dated_truth.dates[row][:4]) for row in recipe.rows]
        frame = moment_of(dated_truth, recipe)
        assert recipe.answer == (f"In {dated_truth.dates[recipe.rows[frame]][:7]}, so "
                                 f"{'yes' if years[frame] < year else 'no'}.")
        assert years[0] < year <= years[-1]
    share = Counter(recipe.answer[-4:] for recipe in recipes)["yes."] / len(recipes)
    assert 0.3 < share < 0.7


def test_of_two_images_no_year_can_be_asked(dated_truth):
    """A trap: the answer can only be no, and a loop that waits for a yes never ends."""
    with pytest.raises(ValueError, match="at least 3 images"):
        build_recipes(dated_truth, {"before 2": 1}, seed=0)


@given(st.lists(st.from_regex(r"[a-z .?]{0,5}", fullmatch=True), min_size=1, max_size=6))
def test_dates_come_before_their_images_and_the_rest_stays(pieces):
    prompt = "<image>".join(pieces)
    days = [f"20{k:02}-01" for k in range(len(pieces) - 1)]
    written = with_dates(Recipe(tuple(range(len(days))), prompt, None, "date"), days).prompt
    assert re.findall(r"(20\d\d-01): <image>", written) == days
    assert re.sub(r"20\d\d-01: <image> ", "<image>", written) == prompt


def test_dates_that_are_missing_or_too_few_are_named(dated_truth, earth_truth):
    recipe = Recipe((0, 1), "<image><image>When?", None, "date")
    with pytest.raises(ValueError, match="1 dates were given for 2 images"):
        with_dates(recipe, ["2019-01"])
    with pytest.raises(ValueError, match="date of image 2 is not known"):
        with_dates(recipe, ["2019-01", ""])
    with pytest.raises(ValueError, match="knows no dates"):
        dates_of(recipe, earth_truth)


def test_shuffled_dates_are_the_same_dates_in_another_order(dated_truth):
    table = ImageTable("dated", [None] * len(dated_truth.scenes), dated_truth)
    dataset = TaskDataset(table, asked(dated_truth, "date"))
    for straight, moved, bare in zip(dated(dataset).recipes, dated(dataset, shuffle=True).recipes,
                                     dataset.recipes, strict=True):
        first, second = (re.findall(r"\d{4}-\d{2}(?=: <image>)", recipe.prompt)
                         for recipe in (straight, moved))
        assert first == [dated_truth.dates[row][:7] for row in bare.rows]
        assert sorted(first) == sorted(second) and first != second
        assert moved.answer == bare.answer and moved.rows == bare.rows


def test_teochats_prompt_names_images_in_plain_text():
    assert teochat_prompt("<image><image>What changed?") == \
        "Image 1: <image>Image 2: <image>What changed?"
    assert teochat_prompt("<image>Describe the image.") == "Image: <image>Describe the image."
    assert teochat_prompt("<image><image>Is <image_2> wet?") == \
        "Image 1: <image>Image 2: <image>Is Image 2 wet?"
    dataset = TaskDataset(None, [Recipe((0, 1), "<image><image>Which?", "<image_2>", "select")])
    assert as_teochat(dataset).recipes[0].answer == "Image 2"
