"""Pairs of frames by how they were taken, and TinyEarth's series whatever the user's images are."""

import dataclasses

import pytest
from PIL import Image

from vlm_utils.datasets import Truth, load_series_table
from vlm_utils.datasets.tables import take_subset
from vlm_utils.plots import draw_boxes
from vlm_utils.time_series import WEATHER, weather_pairs
from vlm_utils.tiny_earth import Conditions, Feature, Scene

LAKE, NONE = Scene("forest", (Feature("lake", "top left", 1),)), Scene("forest", ())
CLOUD = Conditions(cloud=(0, 0, 40, 40))
# Frames 0 to 4: clear, the same picture again, under a cloud, in autumn, and at last a lake.
TRUTH = Truth([NONE, NONE, NONE, NONE, LAKE], [[]] * 5, [(0, 1, 2, 3, 4)], conditions=[
    Conditions(), Conditions(repeats=True), CLOUD, Conditions(season="autumn"), Conditions()])


@pytest.mark.parametrize(("weather", "changed", "rows"), [
    ("clear", False, []), ("clear", True, [(0, 4)]),
    ("repeats", False, [(0, 1)]), ("repeats", True, []),
    ("clouds", False, [(0, 2), (1, 2), (2, 3)]), ("clouds", True, [(2, 4)]),
    ("seasons", False, [(0, 3), (1, 3), (2, 3)]), ("seasons", True, [(3, 4)])])
def test_pairs_are_those_of_the_weather(weather, changed, rows):
    found = weather_pairs(TRUTH, weather, changed, samples=10)
    assert [recipe.rows for recipe in found] == rows
    assert {recipe.answer == "Nothing changed." for recipe in found} <= {not changed}
    assert all(recipe.prompt == "<image><image>What changed?" and recipe.task == "compare"
               for recipe in found)


def test_so_many_are_drawn_each_once_and_the_same_ones_again():
    table = load_series_table("test")
    for weather in WEATHER:
        few, again, other = (weather_pairs(table.truth, weather, False, 30, seed)
                             for seed in (0, 0, 1))
        assert len({recipe.rows for recipe in few}) == len(few) == 30
        assert few == again and few != other


def test_a_truth_without_weather_and_an_unknown_weather_are_refused():
    with pytest.raises(ValueError, match="'hail', not one of"):
        weather_pairs(TRUTH, "hail", False, 1)
    with pytest.raises(ValueError, match="load_series_table"):
        weather_pairs(dataclasses.replace(TRUTH, conditions=()), "clear", False, 1)


def test_series_are_those_of_tiny_earth_whatever_the_users_images_are(tmp_path, monkeypatch):
    for k in range(5):
        Image.new("RGB", (8, 8), (k, 0, 0)).save(tmp_path / f"2019-0{k + 1}-01.png")
    monkeypatch.setenv("VLM_IMAGES", str(tmp_path))
    monkeypatch.setenv("VLM_SUBSET", "16")
    whole = load_series_table("test")
    assert whole.name == "TinyEarth test" and len(whole) > 5000
    part = take_subset(whole, 16)
    assert len(part) == len(part.truth.conditions) == len(part.truth.dates) == 16


def test_boxes_are_drawn_on_every_image_and_none_where_there_is_none():
    images = [Image.new("RGB", (64, 64))] * 5
    boxes = [(10, 10, 40, 40), None, (0, 0, 100, 100), (5, 5, 6, 6), (1, 2, 3, 4)]
    figure = draw_boxes(images, boxes, [None] * 5, ["Where is the lake?"] * 5)
    assert [len(axis.patches) for axis in figure.axes] == [2, 0, 2, 2, 2, 0, 0, 0]
    assert len(figure.axes[0].images) == 1 and not figure.axes[7].images


def test_several_boxes_of_one_image_are_all_drawn():
    """A trap: a list of four boxes looks like one box of four corners."""
    four = [(0, 0, 10, 10), (20, 0, 30, 10), (40, 0, 50, 10), (60, 0, 70, 10)]
    figure = draw_boxes([Image.new("RGB", (64, 64))] * 3, [four, [], four[:1]],
                        [None, four[:2], (1, 2, 3, 4)], [""] * 3)
    assert [len(axis.patches) for axis in figure.axes] == [8, 2, 3]
