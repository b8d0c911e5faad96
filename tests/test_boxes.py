"""Where and when: boxes of things and of changes, and the image in which something happened."""

import re
from collections import Counter

import numpy as np
import pytest

from vlm_utils import tiny_earth
from vlm_utils.datasets import (
    Truth,
    add_orientations,
    box_text,
    build_tasks,
    changed_box,
    locate,
    locate_change,
    moments,
    when,
)
from vlm_utils.evaluation import is_answer
from vlm_utils.tiny_earth import Feature, Scene

LAKE = Feature("lake", "top left", 1, (10, 10, 20, 20))
LARGE = Feature("lake", "top left", 2, (5, 5, 25, 25))
ROAD = Feature("road", "across the bottom", 2, (0, 70, 100, 78))
SHIPS = [Feature("ship", place, 2, box) for place, box in (
    ("top left", (1, 2, 3, 4)), ("top right", (60, 2, 70, 4)), ("bottom left", (1, 60, 3, 70)))]


def drawn(task, truth, num_images, count, seed=0):
    rng = np.random.default_rng(seed)
    return [task(truth, rng, num_images) for _ in range(count)]


def test_a_box_is_written_as_four_numbers():
    assert box_text((12, 30, 40, 100)) == "[12, 30, 40, 100]"
    assert is_answer("locate", "[12, 30, 40, 100]", like="none")
    for text in ("[12, 30, 40]", "12, 30, 40, 50", "[12,30,40,50]", "nowhere", "[1, 2, 3, 4] "):
        assert not is_answer("locate", text, like="[1, 2, 3, 4]"), text


@pytest.mark.parametrize("num_images", [1, 3])
def test_locate_gives_the_box_of_the_thing_in_the_image_that_is_named(earth_truth, num_images):
    answers = Counter()
    for recipe in drawn(locate, earth_truth, num_images, 400):
        kind, _, name = re.search(
            r"Where is the (.*?)( in <image_(\d)>)?\? Give a box\.", recipe.prompt).groups()
        assert (name is None) == (num_images == 1)
        scene = earth_truth.scenes[recipe.rows[int(name or 1) - 1]]
        boxes = {feature.kind: box_text(feature.box) for feature in scene.features}
        assert recipe.answer == boxes.get(kind, "none")
        answers[recipe.answer == "none"] += 1
    assert 0.15 < answers[True] / 400 < 0.4


def test_scenes_without_boxes_are_refused():
    truth = Truth([Scene("forest", (Feature("lake", "top left"),))], [[]], [(0,)])
    with pytest.raises(ValueError, match="box of the lake is not known.*with_boxes"):
        drawn(locate, truth, 1, 20)


@pytest.mark.parametrize(("before", "after", "box"), [
    ((), (LAKE,), LAKE.box), ((LAKE,), (), LAKE.box), ((LAKE,), (LARGE,), LARGE.box),
    ((LARGE,), (LAKE,), LAKE.box), ((LAKE,), (LAKE,), None), ((LAKE,), (LAKE, ROAD), ROAD.box)])
def test_the_box_of_a_change_is_that_of_its_new_state(before, after, box):
    assert changed_box(Scene("forest", before), Scene("forest", after)) == box


def test_the_box_of_a_move_is_where_it_went_and_a_new_cover_changes_everything():
    assert changed_box(Scene("water", (SHIPS[0],)), Scene("water", (SHIPS[1],))) == SHIPS[1].box
    assert changed_box(Scene("forest"), Scene("cropland")) == (0, 0, 100, 100)


def test_locate_change_is_about_two_images_of_a_site(earth_truth):
    nothing = 0
    for recipe in drawn(locate_change, earth_truth, 2, 300):
        first, second = recipe.rows
        assert earth_truth.site_of(first) == earth_truth.site_of(second)
        same = earth_truth.scenes[first] == earth_truth.scenes[second]
        assert (recipe.answer == "none") == same
        nothing += same
    assert nothing / 300 == pytest.approx(0.2, abs=0.08)


@pytest.mark.parametrize(("frames", "known"), [
    ([(), (ROAD,), (ROAD,)], [("the road appear", 1)]),
    ([(ROAD,), (ROAD,), ()], [("the road disappear", 2)]),
    ([(LAKE,), (), (LAKE,)], [("the lake disappear", 1), ("the lake reappear", 2)]),
    ([(), (LAKE,), ()], [("the lake appear", 1), ("the lake disappear", 2)]),
    ([(LAKE,), (LARGE,)], [("the lake grow", 1)]), ([(LARGE,), (LAKE,)], [("the lake shrink", 1)]),
    ([(LAKE,), (LAKE,)], [])])
def test_moments(frames, known):
    assert moments([Scene("forest", features) for features in frames]) == known


def test_of_several_moves_the_first_is_asked_for():
    assert moments([Scene("water", (ship,)) for ship in (SHIPS[0], *SHIPS)]) == [
        ("the ship first move", 2)]
    assert moments([Scene("forest"), Scene("snow")]) == [("the forest become a snow field", 1)]


@pytest.mark.parametrize("num_images", [2, 4])
def test_when_names_the_image_or_says_none(earth_truth, num_images):
    nothing = 0
    for recipe in drawn(when, earth_truth, num_images, 400):
        scenes = [earth_truth.scenes[row] for row in recipe.rows]
        what = re.search(r"In which image did (.*)\?$", recipe.prompt)[1]
        frame = dict(moments(scenes)).get(what)
        assert recipe.answer == ("none" if frame is None else f"<image_{frame + 1}>")
        nothing += frame is None
    assert 0.1 < nothing / 400 < 0.35


def test_what_did_not_happen_is_no_trick_question():
    """A lake that is away for a while has reappeared; nobody may say that it did not appear."""
    truth = Truth([Scene("forest", (LAKE,)), Scene("forest"), Scene("forest", (LAKE,))],
                  [[]] * 3, [(0, 1, 2)])
    asked = {recipe.prompt: recipe.answer for recipe in drawn(when, truth, 3, 300)}
    assert not any("the lake appear" in prompt for prompt in asked)
    assert {"none", "<image_2>", "<image_3>"} == set(asked.values())


def test_boxes_turn_with_the_tiles_of_a_table(earth_table):
    """An answer about a turned tile must be the turned box."""
    turned = add_orientations(earth_table, 2)
    count = len(earth_table)
    found = 0
    for recipe in build_tasks(turned, {"locate 1": 200}, seed=1).recipes:
        row, = recipe.rows
        if recipe.answer == "none" or row < count:
            continue
        kind = re.search(r"Where is the (.*)\? Give", recipe.prompt)[1]
        box, = (f.box for f in earth_table.truth.scenes[row - count].features if f.kind == kind)
        left, top, right, bottom = box
        assert recipe.answer == box_text((top, 100 - right, bottom, 100 - left))
        found += 1
    assert found > 30 and tiny_earth.MAX_FRAMES == 16
