"""Questions whose answers are true, and cannot be had without looking at all the images."""

import re
from collections import Counter, defaultdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlm_utils import tiny_earth
from vlm_utils.architecture import IMAGE_TOKEN, identifier
from vlm_utils.datasets import MOST_ASKED, SIZES, TASKS, Truth
from vlm_utils.evaluation import is_answer
from vlm_utils.tiny_earth import Scene

seeds = st.integers(0, 2 ** 32)


def draw(task, truth, num_images, count, seed=0):
    rng = np.random.default_rng(seed)
    return [TASKS[task](truth, rng, num_images) for _ in range(count)]


def named(text):
    return [int(k) for k in re.findall(r"<image_(\d+)>", text)]


def is_shown(scene: Scene, text: str) -> bool:
    """Is a description of a selection true of a scene? Read here from the text alone."""
    facts = tiny_earth.facts(text)
    if facts:       # a caption too: an image that shows more than it says does not make it false
        return facts <= tiny_earth.scene_facts(scene)
    return text.split(" ", 1)[1] in {feature.kind for feature in scene.features}


# --- every task --------------------------------------------------------------------------------

@given(st.sampled_from(["describe 1", "ask 1", "refer 3", "select 2", "select 4", "compare 2",
                        "sequence 2", "sequence 4", "inventory 1", "inventory 3", "cover 3",
                        "each 3", "locate 1", "locate 3", "locate_change 2", "when 2",
                        "when 5"]), seeds)
def test_a_recipe_has_a_placeholder_for_each_of_its_images(earth_truth, name, seed):
    task, number = name.split()
    recipe, = draw(task, earth_truth, int(number), 1, seed)
    assert recipe.task == task
    assert recipe.prompt.count("<image>") == len(recipe.rows) == int(number)
    assert len(set(recipe.rows)) == len(recipe.rows)
    assert all(1 <= k <= len(recipe.rows) for k in named(recipe.prompt + recipe.answer))
    assert is_answer(task, recipe.answer, like=recipe.answer)


@pytest.mark.parametrize("task", ["compare", "sequence", "locate_change", "when"])
@pytest.mark.parametrize("text", ["", "  ", "lake", "The lake grew", "<image_>", "[1, 2, 3]",
                                  "[1, 2, 3, 4000]", "Nothing changed. Nothing changes."])
def test_a_text_of_another_form_is_no_answer(earth_truth, task, text):
    like = draw(task, earth_truth, 2, 1)[0].answer
    assert not is_answer(task, text, like=like)


# --- select ------------------------------------------------------------------------------------

def test_select_has_exactly_one_true_image(earth_truth):
    """A trap: a whole caption is also true of an image that shows all it says, and more."""
    for recipe in draw("select", earth_truth, 3, 400):
        text = re.search(r"Which image shows: (.*)\?$", recipe.prompt)[1]
        shown = [is_shown(earth_truth.scenes[row], text) for row in recipe.rows]
        assert shown.count(True) == 1, (text, [earth_truth.scenes[r] for r in recipe.rows])
        assert recipe.answer == f"<image_{1 + shown.index(True)}>"


@pytest.mark.parametrize("truth", ["earth_truth", "caption_truth"])
def test_select_prefers_no_position(truth, request):
    recipes = draw("select", request.getfixturevalue(truth), 3, 900)
    counts = Counter(recipe.answer for recipe in recipes)
    assert set(counts) == {"<image_1>", "<image_2>", "<image_3>"}
    assert all(abs(count - 300) < 60 for count in counts.values())  # four standard deviations


def test_distractors_share_something_with_the_true_image(earth_truth):
    """By chance alone, two of these scenes share a cover or a kind in less than 40% of draws."""
    def shares(a, b):
        a, b = earth_truth.scenes[a], earth_truth.scenes[b]
        return a.cover == b.cover or bool({f.kind for f in a.features}
                                          & {f.kind for f in b.features})

    found = [shares(row, recipe.rows[int(recipe.answer[7]) - 1])
             for recipe in draw("select", earth_truth, 3, 300)
             for row in recipe.rows if row != recipe.rows[int(recipe.answer[7]) - 1]]
    rng = np.random.default_rng(1)
    pairs = rng.integers(0, len(earth_truth.scenes), (600, 2))
    by_chance = [shares(a, b) for a, b in pairs if a != b]
    assert np.mean(found) > np.mean(by_chance) + 0.1


# --- compare -----------------------------------------------------------------------------------

def test_compare_tells_the_true_change_between_two_dates_of_one_place(earth_truth):
    place_of = {row: place for place, rows in enumerate(earth_truth.sites) for row in rows}
    for recipe in draw("compare", earth_truth, 2, 100):
        first, second = recipe.rows
        assert place_of[first] == place_of[second]
        assert recipe.answer == tiny_earth.describe_change(
            earth_truth.scenes[first], earth_truth.scenes[second])


def test_a_fifth_of_the_comparisons_shows_no_change(earth_truth):
    answers = [recipe.answer for recipe in draw("compare", earth_truth, 2, 1000)]
    assert answers.count("Nothing changed.") / 1000 == pytest.approx(0.2, abs=0.05)


def test_the_second_image_alone_does_not_tell_what_changed(earth_truth):
    """A trap: the same picture must be seen with different answers, else one image is enough."""
    by_second = defaultdict(set)
    for recipe in draw("compare", earth_truth, 2, 1500):
        by_second[recipe.rows[1]].add(recipe.answer)
    ambiguous = [len(answers) > 1 for answers in by_second.values()]
    assert np.mean(ambiguous) > 0.5


# --- sequence ----------------------------------------------------------------------------------

def test_a_sequence_shows_one_place_forwards_or_backwards(earth_truth):
    places = [set(rows) for rows in earth_truth.sites]
    forwards = []
    for recipe in draw("sequence", earth_truth, 3, 200):
        rows = list(recipe.rows)
        assert any(set(rows) <= place for place in places)
        assert rows in (sorted(rows), sorted(rows)[::-1])
        forwards.append(rows == sorted(rows))
        assert recipe.answer == tiny_earth.describe_sequence([earth_truth.scenes[r] for r in rows])
    assert 0.3 < np.mean(forwards) < 0.7


def test_reversed_in_time_the_answer_is_another_unless_nothing_changes_or_it_comes_and_goes(
        earth_truth):
    same = []
    for recipe in draw("sequence", earth_truth, 4, 200):
        backwards = tiny_earth.describe_sequence(
            [earth_truth.scenes[r] for r in recipe.rows[::-1]])
        if backwards == recipe.answer:
            same.append(recipe.answer)
        elif recipe.answer == "Nothing changes.":
            pytest.fail("backwards, nothing became something")
    assert "Nothing changes." in same
    assert all(a == "Nothing changes." or " and " in a for a in same)


def test_a_sequence_longer_than_any_is_refused(earth_truth):
    longest = max(map(len, earth_truth.sites))
    with pytest.raises(ValueError, match=f"of {longest + 1} images .* has {longest}"):
        draw("sequence", earth_truth, longest + 1, 1)


# --- refer -------------------------------------------------------------------------------------

def test_refer_asks_for_every_image_and_before_between_and_after_them(earth_truth):
    recipes = draw("refer", earth_truth, 3, 300)
    assert {k for recipe in recipes for k in named(recipe.prompt)} == {1, 2, 3}
    assert all(len(named(recipe.prompt)) == 1 for recipe in recipes)
    before = Counter(len(re.match("(<image>)*", recipe.prompt)[0]) // 7 for recipe in recipes)
    assert set(before) == {0, 1, 2, 3}


def test_refer_answers_about_the_image_that_it_names(earth_truth):
    """Checked for the questions whose truth can be read from the prompt alone."""
    checked = Counter()
    for recipe in draw("refer", earth_truth, 3, 400):
        k, = named(recipe.prompt)
        scene = earth_truth.scenes[recipe.rows[k - 1]]
        if match := re.search(r"Is there an? (.*) in <image_\d+>\?", recipe.prompt):
            kinds = {feature.kind for feature in scene.features}
            assert recipe.answer == ("Yes." if match[1] in kinds else "No.")
            checked[recipe.answer] += 1
        elif "land cover" in recipe.prompt:
            assert recipe.answer == f"{scene.cover.capitalize()}."
            checked["cover"] += 1
    assert min(checked[answer] for answer in ("Yes.", "No.", "cover")) > 5


def test_a_place_in_a_yes_or_no_question_decides_the_answer(earth_truth):
    asked = {True: 0, False: 0}
    for recipe in draw("ask", earth_truth, 1, 3000):
        facts = [f for f in tiny_earth.facts(recipe.prompt) if f[0] == "feature"]
        if "Is there" not in recipe.prompt or not facts:
            continue
        scene = earth_truth.scenes[recipe.rows[0]]
        there = facts[0] in tiny_earth.scene_facts(scene)
        assert recipe.answer == ("Yes." if there else "No.")
        asked[there] += 1
    assert min(asked.values()) > 0.3 * sum(asked.values()) > 30


def test_cover_asks_for_the_cover_of_the_image_that_it_names(earth_truth):
    orders = set()
    for recipe in draw("cover", earth_truth, 3, 60):
        k, = named(recipe.prompt)
        assert recipe.answer == f"{earth_truth.scenes[recipe.rows[k - 1]].cover.capitalize()}."
        orders.add([piece != "" for piece in recipe.prompt.split(IMAGE_TOKEN)].index(True))
    assert {0, 3} <= orders  # the text before the images, and after them


def test_each_answers_for_every_image_that_it_names(earth_truth):
    asked, found = set(), Counter()
    for recipe in draw("each", earth_truth, 5, 200):
        names = named(recipe.prompt)
        parts = recipe.answer.removesuffix(".").split(", ")
        assert 2 <= len(names) <= MOST_ASKED
        assert names == [named(part)[0] for part in parts]      # in the order of the question
        asked.add(len(names))
        for k, part in zip(names, parts, strict=True):
            scene = earth_truth.scenes[recipe.rows[k - 1]]
            said = part.removeprefix(identifier(k) + " ")
            at = {tiny_earth.where(f.place): f.kind for f in scene.features}
            place = next((w for w in map(tiny_earth.where, tiny_earth.CELLS)
                          if w in recipe.prompt), None)
            kind = next((f for f in scene.features if f.kind in recipe.prompt), None)
            if place:
                assert said == at.get(place, "nothing")
            elif "land cover" in recipe.prompt:
                assert said == scene.cover
            elif kind is None:
                assert said == ("nowhere" if "Where" in recipe.prompt else "none")
            elif "Where" in recipe.prompt:
                assert tiny_earth.where(kind.place).endswith(said)
            else:
                assert said == SIZES[kind.size][:-1].lower()
            found[said in ("nothing", "nowhere", "none")] += 1
    assert asked == {2, 3, 4}
    assert min(found.values()) > 0.2 * sum(found.values())  # neither answer is the likely one


def test_each_refuses_a_single_image(earth_truth):
    with pytest.raises(ValueError, match="at least 2"):
        draw("each", earth_truth, 1, 1)


def test_an_inventory_lists_the_image_that_it_names_with_sizes(earth_truth):
    for recipe in draw("inventory", earth_truth, 3, 50):
        k, = named(recipe.prompt)
        scene = earth_truth.scenes[recipe.rows[k - 1]]
        assert tiny_earth.facts(recipe.answer) == tiny_earth.scene_facts(scene)
        for feature in scene.features:
            size = f"{SIZES[feature.size][:-1].lower()} {feature.kind} "
            assert (size in recipe.answer) == (feature.kind in tiny_earth.SIZED_KINDS)


# --- captions alone, as Flickr8k has them ------------------------------------------------------

def test_describe_answers_with_a_caption_of_its_image(caption_truth):
    for recipe in draw("describe", caption_truth, 1, 50):
        assert recipe.answer in caption_truth.captions[recipe.rows[0]]


@pytest.mark.parametrize(("caption", "phrase"), [
    ("Two dogs run on grass.", "two dogs run on grass"), ("A dog runs .", "a dog runs"),
    ("forest", "forest"), ("Is it a cat?", "is it a cat"), ("USA beat Ghana.", "USA beat Ghana"),
    ("I see a dog.", "I see a dog"), (" A man . ", "a man"), ("UN jeeps!", "UN jeeps")])
def test_a_users_caption_or_class_name_reads_on_after_the_colon(caption, phrase):
    truth = Truth([None] * 2, [[caption], ["Something else."]], [(0,), (1,)])
    asked = {recipe.prompt for recipe in draw("select", truth, 2, 20)}
    assert asked == {f"<image><image>Which image shows: {phrase}?",
                     "<image><image>Which image shows: something else?"}


def test_select_by_caption_is_about_the_right_image(caption_truth):
    for recipe in draw("select", caption_truth, 3, 50):
        row = recipe.rows[named(recipe.answer)[0] - 1]
        assert f"Which image shows: photo {row} shows" in recipe.prompt


def test_refer_by_caption_is_about_the_right_image(caption_truth):
    for recipe in draw("refer", caption_truth, 3, 50):
        k, = named(recipe.prompt)
        assert recipe.answer in caption_truth.captions[recipe.rows[k - 1]]


def test_compare_by_caption_says_what_each_image_shows(caption_truth):
    for recipe in draw("compare", caption_truth, 2, 50):
        first, second = recipe.rows
        assert re.fullmatch(f"<image_1>: photo {first} .*; <image_2>: photo {second} .*[^.]\\.",
                            recipe.answer)


def test_a_selection_without_captions_says_what_is_missing():
    with pytest.raises(ValueError, match="no caption.*metadata.jsonl"):
        draw("select", Truth([None] * 4, [[]] * 4, [(0, 1, 2, 3)]), 2, 1)


def test_more_images_than_there_are_is_refused(caption_truth):
    with pytest.raises(ValueError, match="13 images was asked for and there are 12"):
        draw("select", caption_truth, 13, 1)


@pytest.mark.parametrize(("task", "number"), [("describe", 1), ("compare", 2), ("sequence", 3)])
def test_where_nothing_is_known_the_answer_is_none(task, number):
    frames = Truth([None] * 6, [[]] * 6, [tuple(range(6))])
    for recipe in draw(task, frames, number, 20):
        assert recipe.answer is None
        assert recipe.rows == tuple(sorted(recipe.rows))
