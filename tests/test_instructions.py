"""Several tasks from one model: the sentence that fixes an answer's form, boxes as text, scores."""

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from vlm_utils import tiny_earth
from vlm_utils.datasets import ImageTable, Truth, load_image_table
from vlm_utils.loading import load_base_model
from vlm_utils.profiles import get_profile
from vlm_utils.real_data import (
    INSTRUCTIONS,
    LONGEST_ANSWER,
    Thing,
    asked_as,
    can_instruct,
    caption_facts,
    detection_scores,
    in_form,
    instruct,
    match_things,
    parse_things,
    right_answers,
    score_tasks,
    things_of,
    things_text,
)
from vlm_utils.tiny_earth import Feature, Scene

LAKE, TOWN = Thing("lake", (10, 10, 40, 40)), Thing("town", (60, 50, 90, 80))


@pytest.fixture(scope="module")
def table():
    return load_image_table(get_profile("tiny"), "validation")


@pytest.fixture(scope="module")
def dataset(table):
    return instruct(table, dict.fromkeys(INSTRUCTIONS, 150), seed=3)


def answered(dataset, texts=None) -> pd.DataFrame:
    """A table of `predict`: each sample answered with the truth, or with the texts."""
    recipes = dataset.recipes
    true = [recipe.answer for recipe in recipes]
    return pd.DataFrame({"task": [r.task for r in recipes], "answer": true,
                         "prediction": true if texts is None else texts})


def said(*pairs: tuple[str, str], task: str = "detect") -> pd.DataFrame:
    return pd.DataFrame({"task": task, "answer": [a for a, _ in pairs],
                         "prediction": [b for _, b in pairs]})


# --- boxes as text --------------------------------------------------------------------------------

def test_things_are_written_from_top_to_bottom_and_read_back():
    text = things_text([TOWN, LAKE])
    assert text == "lake [10, 10, 40, 40], town [60, 50, 90, 80]."
    assert parse_things(text) == [LAKE, TOWN]
    assert things_text([]) == "none" and parse_things("none") == []


@pytest.mark.parametrize("text, names", [
    ("lake [1, 2, 3], town [60, 50, 90, 80].", ["town"]),
    ("lake [1, 2, 3, 4, 5].", []),
    ("lake, town.", []),
    ("[1, 2, 3, 4]", []),
    ("solar farm [1, 2, 3, 4]. Lake [5, 6, 7, 8]", ["solar farm", "lake"]),
    ("lake [1, 2, 3, 4], lake [1, 2, 3, 4]", ["lake", "lake"]),
    ("", []),
])
def test_a_bracket_without_four_numbers_is_no_box_and_ends_nothing(text, names):
    """A trap: the usual script stops at the first bracket that it cannot read, or drops the sample.
    """
    assert [thing.name for thing in parse_things(text)] == names


def test_a_thing_is_found_by_its_name_and_once():
    nearly = LAKE._replace(box=(12, 10, 40, 40))
    assert match_things([LAKE, TOWN], [TOWN, nearly, LAKE]) == [(0, 2), (1, 0)]
    assert match_things([LAKE], [LAKE._replace(name="town")]) == []
    assert match_things([LAKE], [LAKE._replace(box=(30, 10, 60, 40))]) == []
    assert match_things([LAKE, nearly], [LAKE]) == [(0, 0)]


def test_what_is_said_twice_is_a_false_alarm_and_what_cannot_be_read_is_missed():
    scores = detection_scores(said(
        ("lake [10, 10, 40, 40].", "lake [10, 10, 40, 40], lake [10, 10, 40, 40]."),
        ("town [60, 50, 90, 80].", "a town somewhere"),
        ("none", "none"), ("none", "")))
    assert (scores["found"], scores["missed"], scores["false_alarms"]) == (1, 1, 1)
    assert scores["precision"] == scores["recall"] == scores["f1"] == 0.5
    assert scores["none_right"] == 0.5          # an empty answer says nothing, and not "none"
    assert scores["exact"] == 0.25


def test_scores_without_any_thing_are_no_number():
    scores = detection_scores(said(("none", "none.")))
    assert np.isnan([scores[name] for name in ("precision", "recall", "f1", "pixel_f1")]).all()
    assert scores["none_right"] == scores["exact"] == 1


def test_a_pixel_in_two_boxes_counts_once():
    whole = "lake [10, 10, 40, 40]."
    inside = detection_scores(said((whole, "lake [10, 10, 40, 40], town [10, 10, 40, 25].")))
    assert inside["pixel_f1"] == 1 and inside["false_alarms"] == 1
    half = detection_scores(said((whole, "lake [10, 10, 25, 40].")))
    assert half["pixel_f1"] == pytest.approx(2 / 3, abs=0.02)


def test_things_of_a_scene_need_their_boxes():
    with pytest.raises(ValueError, match="the box of the lake is not known"):
        things_of(Scene("forest", (Feature("lake", "top left", 1),)))


# --- one sentence for each task -------------------------------------------------------------------

def test_every_true_answer_has_the_form_that_its_sentence_asks_for(dataset):
    assert all(in_form(answered(dataset)))
    assert set(answered(dataset)["task"]) == set(INSTRUCTIONS)


def test_an_answer_of_another_task_does_not_have_the_form(dataset):
    """Of two tasks whose forms can be told apart: a caption and a change are both a sentence."""
    truth = answered(dataset)
    for asked, given in (("caption", "detect"), ("caption", "vqa"), ("detect", "caption"),
                         ("change", "changed"), ("changed", "change"), ("change_box", "detect"),
                         ("change_box", "change"), ("vqa", "caption")):
        texts = truth.loc[(truth["task"] == given) & (truth["answer"] != "none"), "answer"]
        other = pd.DataFrame({"task": asked, "answer": "", "prediction": texts})
        if (asked, given) == ("change_box", "detect"):
            other["prediction"] = "a " + other["prediction"]
        assert not any(in_form(other)), (asked, given)


def test_the_same_question_is_asked_in_several_forms():
    questions = [(i.question, i.sentence) for i in INSTRUCTIONS.values()]
    assert len(set(questions)) == len(questions)
    for question in {question for question, _ in questions if question}:
        assert sum(question == other for other, _ in questions) >= 2


def test_samples_differ_and_are_as_many_as_were_asked_for(table, dataset):
    assert len(set(dataset.recipes)) == len(dataset.recipes) == 150 * len(INSTRUCTIONS)
    again = instruct(table, dict.fromkeys(INSTRUCTIONS, 150), seed=3)
    assert again.recipes == dataset.recipes
    with pytest.raises(ValueError, match="unknown task 'detects': choose from"):
        instruct(table, {"detects": 3}, seed=0)


def test_yes_and_no_are_right_equally_often(table):
    """A trap: drawn as comparisons are, "Yes." without a look at the images scores 80%."""
    answers = [r.answer for r in instruct(table, {"changed": 400}, seed=0).recipes]
    assert 0.42 < np.mean([answer == "Yes." for answer in answers]) < 0.58


def test_detections_name_up_to_three_things_and_none(table):
    numbers = [len(parse_things(r.answer))
               for r in instruct(table, {"detect": 300}, seed=0).recipes]
    assert set(numbers) == {0, 1, 2, 3}


def test_the_longest_answer_fits(dataset):
    """A trap: `predict` ends an answer after 48 tokens, in the middle of the third box."""
    _, processor = load_base_model(get_profile("tiny"))
    lengths = [len(processor.encode_answer(recipe.answer)) for recipe in dataset.recipes]
    assert 48 < max(lengths) <= LONGEST_ANSWER


def test_asked_as_keeps_the_images_and_changes_the_sentence(dataset):
    changes = dataset.of_task("change")
    other = asked_as(changes, "change_box")
    assert [r.rows for r in other.recipes] == [r.rows for r in changes.recipes]
    assert {r.task for r in other.recipes} == {"change_box"}
    assert {r.answer for r in other.recipes} == {None}
    assert other.recipes[0].prompt == changes.recipes[0].prompt.replace(
        INSTRUCTIONS["change"].sentence, INSTRUCTIONS["change_box"].sentence)


def test_of_photographs_only_captions_are_known():
    picture = {"image": Image.new("RGB", (8, 8))}
    photographs = ImageTable("photographs", [picture] * 3, Truth(
        [None] * 3, [["A dog runs ."], ["A boat."], ["Two boys ."]], [(k,) for k in range(3)]))
    tasks = can_instruct(photographs.truth)
    assert tasks == ["caption"]
    recipes = instruct(photographs, dict.fromkeys(tasks, 3), seed=0).recipes
    assert {r.answer for r in recipes} == {"A dog runs .", "A boat.", "Two boys ."}
    assert can_instruct(Truth([None], [[]], [(0,)])) == []


# --- scores ---------------------------------------------------------------------------------------

def test_the_truth_scores_one_in_each_task(dataset):
    table = score_tasks(answered(dataset)).set_index("task")
    assert list(table.index) == list(INSTRUCTIONS)
    assert (table["score"] == 1).all() and (table["right"] == 1).all()
    assert (table["in_form"] == 1).all() and (table["low"] < 1).all()


def test_the_answers_of_other_images_score_little(dataset):
    """Nothing that can be answered without its image may look right by the way it is counted."""
    truth = answered(dataset)
    truth["prediction"] = truth.groupby("task")["answer"].transform(
        lambda texts: np.roll(texts.to_numpy(), 1))
    right = score_tasks(truth).set_index("task")["right"]
    assert right["changed"] < 0.65 and (right.drop("changed") < 0.35).all(), right


def test_a_caption_is_right_in_any_wording_and_wrong_with_one_more_fact():
    scene = Scene("forest", (Feature("lake", "top left", 1),))
    one, *others = tiny_earth.captions(scene)
    more = "A forest with a lake in the top left and a town in the top right."
    table = said(*((one, other) for other in others), (one, more), (one, "A forest."),
                 task="caption")
    assert right_answers(table) == [True] * len(others) + [False, False]
    facts = caption_facts(said((one, more), task="caption"))
    assert facts["facts_found"] == 1 and facts["facts_true"] == pytest.approx(2 / 3)
    assert facts["f1"] == pytest.approx(0.8)


def test_a_change_box_is_right_if_it_overlaps_and_none_only_where_nothing_changed():
    table = said(("[0, 0, 50, 50]", "[0, 0, 50, 48]"), ("[0, 0, 50, 50]", "[50, 50, 90, 90]"),
                 ("[0, 0, 50, 50]", "none"), ("none", "none"), ("none", "[0, 0, 50, 50]"),
                 task="change_box")
    assert right_answers(table) == [True, False, False, True, False]
