"""Measuring: what counts as right, how sure one is, and controls that take the images away."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vlm_utils import tiny_earth
from vlm_utils.datasets import TaskDataset, build_tasks
from vlm_utils.evaluation import (
    accuracy_by_position,
    blind,
    evaluate,
    grade,
    parse_choice,
    permuted,
    predict,
    reversed_frames,
    shuffled,
    summarise,
    wilson_interval,
)
from vlm_utils.tasks import Recipe


def table(*rows):
    """Predictions by hand: (task, num_images, answer, prediction)."""
    return pd.DataFrame(rows, columns=["task", "num_images", "answer", "prediction"]).assign(
        prompt="")


# --- intervals ---------------------------------------------------------------------------------

@pytest.mark.parametrize(("correct", "total", "low", "high"), [
    (81, 263, 0.2553, 0.3662),      # Newcombe 1998, table I, method 3
    (15, 148, 0.0624, 0.1605),
    (0, 20, 0.0, 0.1611),
    (1, 29, 0.0061, 0.1718),
    (20, 20, 0.8389, 1.0),
])
def test_wilson_interval_as_published(correct, total, low, high):
    assert wilson_interval(correct, total) == pytest.approx((low, high), abs=5e-5)


@given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_an_interval_holds_its_share_and_lies_between_zero_and_one(case):
    correct, total = case
    low, high = wilson_interval(correct, total)
    assert 0 <= low <= correct / total + 1e-9 and correct / total - 1e-9 <= high <= 1
    assert low < high
    wider = wilson_interval(correct, total, confidence=0.99)
    assert wider[0] <= low + 1e-9 and high <= wider[1] + 1e-9


@pytest.mark.parametrize(("correct", "total"), [(0, 0), (3, 2), (-1, 5)])
def test_what_is_no_share_has_no_interval(correct, total):
    with pytest.raises(ValueError, match=f"{correct} correct of {total} is no share"):
        wilson_interval(correct, total)


# --- grading -----------------------------------------------------------------------------------

@pytest.mark.parametrize(("text", "choice"), [
    ("<image_2>", 2), ("It is <image_2>.", 2), ("<image_2> <image_2>", 2),
    ("<image_1> or <image_2>", None), ("", None), ("image 2", None), ("<image_4>", None),
    ("<image_0>", None), ("<image_>", None), ("2", None)])
def test_parse_choice_wants_exactly_one_of_the_images(text, choice):
    assert parse_choice(text, num_images=3) == choice


def test_what_cannot_be_parsed_is_wrong_and_stays():
    """A trap: dropped from the metric, gibberish would raise the accuracy."""
    graded = grade(table(("select", 3, "<image_1>", "<image_1>"),
                         ("select", 3, "<image_1>", "<image_2>"),
                         ("select", 3, "<image_1>", "lake lake"),
                         ("compare", 2, "Nothing changed.", "Nothing changed."),
                         ("compare", 2, "Nothing changed.", "The lake grew."),
                         ("compare", 2, "Nothing changed.", "The the the"),
                         ("describe", 1, "A dog runs.", "A dog sits."),
                         ("describe", 1, "A dog runs.", " ")))
    assert graded["correct"].tolist() == [True, False, False, True, False, False, False, False]
    assert graded["valid"].tolist() == [True, True, False, True, True, False, True, False]


def test_without_a_true_answer_there_is_no_grade():
    with pytest.raises(ValueError, match="sample 1 has no true answer"):
        grade(table(("compare", 2, "Nothing changed.", "x"), ("compare", 2, None, "x")))


def test_a_summary_tells_accuracy_chance_prior_and_invalid_answers():
    summary = summarise(grade(table(
        ("select", 2, "<image_1>", "<image_1>"), ("select", 2, "<image_1>", "<image_1>"),
        ("select", 2, "<image_1>", "?"), ("select", 2, "<image_2>", "<image_1>"),
        ("compare", 2, "Nothing changed.", "Nothing changed.")))).set_index("task")
    select = summary.loc["select"]
    assert select[["samples", "accuracy", "chance", "prior", "invalid"]].tolist() == \
        [4, 0.5, 0.5, 0.75, 0.25]
    assert (select["low"], select["high"]) == wilson_interval(2, 4)
    assert np.isnan(summary.loc["compare", "chance"])
    assert summary.loc["compare", "accuracy"] == 1


def test_numbers_of_images_are_summarised_apart():
    summary = summarise(grade(table(("select", 2, "<image_1>", "<image_1>"),
                                    ("select", 3, "<image_1>", "<image_2>"))))
    assert summary["num_images"].tolist() == [2, 3]
    assert summary["accuracy"].tolist() == [1, 0]
    assert summary["chance"].tolist() == pytest.approx([1 / 2, 1 / 3])


def test_accuracy_by_position_shows_a_bias():
    """A model that always says the first is right there and nowhere else."""
    graded = grade(table(*[("select", 2, f"<image_{1 + i % 2}>", "<image_1>") for i in range(10)]))
    found = accuracy_by_position(graded).set_index("position")
    assert found["accuracy"].tolist() == [1, 0]
    assert found["chosen"].tolist() == [1, 0]
    assert found["samples"].tolist() == [5, 5]


# --- predictions -------------------------------------------------------------------------------

@pytest.fixture
def dataset(earth_table, make_model, processor):
    made = build_tasks(earth_table, {"select 2": 6, "sequence 3": 5, "refer 1": 4}, seed=0)
    pixels = processor.pixel_values([earth_table.image(i) for i in range(len(earth_table))])
    made.features = make_model().encode_images(pixels).half()
    return made


def test_predictions_come_in_the_order_of_the_samples(model, processor, dataset):
    together = predict(model, processor, dataset, batch_size=4, max_new_tokens=5)
    assert together["answer"].tolist() == [r.answer for r in dataset.recipes]
    assert together["num_images"].tolist() == [len(r.rows) for r in dataset.recipes]
    for i, text in enumerate(together["prediction"]):
        alone = TaskDataset(dataset.table, [dataset.recipes[i]], dataset.features)
        assert predict(model, processor, alone, max_new_tokens=5)["prediction"].item() == text
    assert together["prediction"].nunique() > 3


def test_pictures_and_their_features_are_answered_alike(model, processor, dataset):
    pictures = TaskDataset(dataset.table, dataset.recipes)
    encoded = TaskDataset(dataset.table, dataset.recipes, model.encode_images(
        processor.pixel_values([dataset.table.image(i) for i in range(len(dataset.table))])))
    first, second = (predict(model, processor, d, max_new_tokens=4)["prediction"].tolist()
                     for d in (pictures, encoded))
    assert first == second


def test_evaluate_keeps_every_sample(model, processor, dataset):
    """A random model answers with gibberish: all of it counts, as wrong."""
    summary = evaluate(model, processor, dataset, max_new_tokens=4)
    assert summary["samples"].sum() == len(dataset)
    assert summary.set_index("task").loc["sequence", ["accuracy", "invalid"]].tolist() == [0, 1]


# --- controls ----------------------------------------------------------------------------------

def test_shuffled_moves_images_within_task_and_number_and_keeps_answers(dataset):
    mixed = shuffled(dataset, seed=1)
    for old, new in zip(dataset.recipes, mixed.recipes, strict=True):
        assert (old.prompt, old.answer, old.task) == (new.prompt, new.answer, new.task)
        assert len(old.rows) == len(new.rows)
        assert old.rows != new.rows
    assert sorted(r.rows for r in dataset.recipes) == sorted(r.rows for r in mixed.recipes)


def test_a_sample_that_is_alone_of_its_kind_cannot_be_shuffled(dataset):
    """Left with its own images it would be answered right, and the control be too good."""
    alone = replace(dataset, recipes=dataset.of_task("select").recipes[:1])
    with pytest.raises(ValueError, match="the only sample of 'select' with 2 images"):
        shuffled(alone)


@given(st.lists(st.integers(0, 99), min_size=2, max_size=6, unique=True), st.data())
def test_permuted_answers_name_the_same_image(rows, data):
    k = data.draw(st.integers(1, len(rows)))
    recipe = Recipe(tuple(rows), "<image>" * len(rows) + "Which?", f"<image_{k}>", "select")
    seed = data.draw(st.integers(0, 99))
    new, = permuted(TaskDataset(None, [recipe]), seed).recipes
    assert sorted(new.rows) == sorted(rows)
    assert new.rows[int(new.answer[7:-1]) - 1] == rows[k - 1]
    assert new.prompt == recipe.prompt


def test_permuted_changes_orders_and_takes_selections_only(dataset):
    selections = dataset.of_task("select")
    orders = [r.rows for r in permuted(selections).recipes]
    assert orders != [r.rows for r in selections.recipes]
    with pytest.raises(ValueError, match="only selections can be permuted"):
        permuted(dataset)


def test_reversed_frames_have_the_answer_that_is_true_backwards(dataset):
    sequences = dataset.of_task("sequence")
    scenes = dataset.table.truth.scenes
    turned = reversed_frames(sequences)
    for old, new in zip(sequences.recipes, turned.recipes, strict=True):
        assert new.rows == old.rows[::-1]
        assert new.answer == tiny_earth.describe_sequence([scenes[r] for r in new.rows])
    assert [r.answer for r in turned.recipes] != [r.answer for r in sequences.recipes]
    assert reversed_frames(turned).recipes == sequences.recipes


def test_blind_shows_the_mean_image_everywhere(dataset):
    unseeing = blind(dataset)
    expected = dataset.features.float().mean(0)
    for i in (0, 7):
        features = unseeing[i].image_features
        assert features.shape == dataset[i].image_features.shape
        assert all(torch.allclose(image.float(), expected, atol=1e-3) for image in features)
    assert [r.answer for r in unseeing.recipes] == [r.answer for r in dataset.recipes]


def test_controls_leave_the_samples_as_they_were(dataset):
    before, features = list(dataset.recipes), dataset.features
    for control in (blind, shuffled):
        control(dataset)
    permuted(dataset.of_task("select"))
    assert dataset.recipes == before and dataset.features is features
