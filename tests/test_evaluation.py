"""Measuring: what counts as right, how sure we can be, and controls that take images away."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vlm_utils import tiny_earth
from vlm_utils.datasets import (
    TASKS,
    Recipe,
    TaskDataset,
    Truth,
    build_tasks,
    caption_pair,
    is_free_text,
)
from vlm_utils.evaluation import (
    accuracy_by_position,
    blind,
    evaluate,
    free_text_scores,
    grade,
    parse_choice,
    permuted,
    predict,
    reversed_frames,
    shuffled,
    summarise,
    warn_small_samples,
    wilson_interval,
    with_unrelated,
)
from vlm_utils.tiny_earth import with_article


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
def test_what_is_not_a_share_has_no_interval(correct, total):
    with pytest.raises(ValueError, match=f"{correct} correct of {total} is not a valid share"):
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


def test_two_answers_that_name_no_image_do_not_agree():
    """A trap: None equals None, and a selection with a broken truth would count as right."""
    graded = grade(table(("select", 2, "the lake", "the town"), ("select", 2, "<image_3>", "")))
    assert graded["correct"].tolist() == [False, False]


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


def test_the_prior_knows_the_kind_of_a_question_and_nothing_of_its_images():
    """A trap: beside the commonest of ALL answers a model that sees nothing would seem to see."""
    predictions = table(("refer", 2, "Yes.", "Yes."), ("refer", 2, "Yes.", "No."),
                        ("refer", 2, "No.", "No."), ("refer", 2, "Forest.", "Forest."),
                        ("refer", 2, "Forest.", "Desert."))
    predictions["prompt"] = [
        "<image><image>Is there a lake in <image_1>?", "<image>Is there fire in <image_2>?<image>",
        "Is there a quarry in <image_1>?<image><image>", "<image>What is in <image_1>?<image>",
        "<image><image>What is the land cover of <image_2>?"]
    assert summarise(grade(predictions)).loc[0, "prior"] == pytest.approx(4 / 5)
    predictions["prompt"] = "<image><image>Which?"
    assert summarise(grade(predictions)).loc[0, "prior"] == pytest.approx(2 / 5)


def test_numbers_of_images_are_summarised_apart():
    summary = summarise(grade(table(("select", 2, "<image_1>", "<image_1>"),
                                    ("select", 3, "<image_1>", "<image_2>"))))
    assert summary["num_images"].tolist() == [2, 3]
    assert summary["accuracy"].tolist() == [1, 0]
    assert summary["chance"].tolist() == pytest.approx([1 / 2, 1 / 3])


# --- how much a row rests on -------------------------------------------------------------------

def asked(num_samples: int, num_images: int, right: int) -> tuple[pd.DataFrame, TaskDataset]:
    """A summary of num_samples questions about num_images images in turn, `right` of them right."""
    recipes = [Recipe((i % num_images,), f"<image>Question {i}?", "Yes.", "refer")
               for i in range(num_samples)]
    graded = grade(table(*[("refer", 1, "Yes.", "Yes." if i < right else "No.")
                           for i in range(num_samples)]))
    return summarise(graded), TaskDataset(table_of([]), recipes)


def table_of(places: list[tuple[int, ...]]):
    """An image table of which only the places are known."""
    return type("Table", (), {"truth": Truth([], [], places)})


def test_many_questions_about_few_images_are_named():
    """A trap: the interval of 600 samples is narrow, though they show the same six photographs."""
    summary, dataset = asked(600, 6, right=480)
    assert (summary["high"] - summary["low"]).item() < 0.07
    warning, = warn_small_samples(summary, dataset)
    assert "refer of 1: 600 samples show only 6 different images." in warning
    assert "77% to 83%, is too narrow" in warning
    low, high = wilson_interval(5, 6)
    assert f"{low:.0%} to {high:.0%}, {100 * (high - low):.0f} points wide" in warning
    assert warning.endswith("Add images.")


def test_few_samples_are_named():
    summary, dataset = asked(12, 12, right=6)
    warning, = warn_small_samples(summary, dataset)
    assert "refer of 1: 12 samples of 12 different images leave an interval of 25%" in warning
    assert "49 points wide" in warning and warning.endswith("Ask more samples.")


@given(st.integers(0, 200))
def test_enough_samples_of_enough_images_are_not_named(right):
    summary, dataset = asked(200, 150, right)
    assert warn_small_samples(summary, dataset) == []


def test_each_row_is_weighed_by_its_own_images():
    """A trap: counted over all tasks together, images of one task lend weight to another."""
    few, few_asked = asked(300, 5, right=150)
    many = TaskDataset(table_of([]), [
        Recipe((i, i + 1), "<image><image>Which?", "<image_1>", "select") for i in range(300)])
    summary = pd.concat([few, few.assign(task="select", num_images=2)])
    both = TaskDataset(table_of([]), few_asked.recipes + many.recipes)
    assert [w.split(":")[0] for w in warn_small_samples(summary, both)] == ["refer of 1"]


def test_samples_of_several_images_use_up_the_images_together():
    """A trap: 400 questions about the same six pairs show twelve images, and are worth six."""
    recipes = [Recipe((2 * (i % 6), 2 * (i % 6) + 1), "<image><image>Which?", "<image_1>", "select")
               for i in range(400)]
    summary = summarise(grade(table(*[("select", 2, "<image_1>", "<image_1>")] * 400)))
    warning, = warn_small_samples(summary, TaskDataset(table_of([]), recipes))
    low, high = wilson_interval(6, 6)
    assert "400 samples show only 12 different images." in warning
    assert f"{summary['low'][0]:.0%} to 100%, is too narrow" in warning
    assert f"{low:.0%} to {high:.0%}" in warning


def test_frames_of_one_place_count_as_one():
    """A trap: 40 sequences of 8 frames show 80 images, and all of them are ten places."""
    places = [tuple(range(8 * i, 8 * i + 8)) for i in range(10)]
    recipes = [Recipe(places[i % 10], "<image>" * 8 + "What happens?", "Nothing changes.",
                      "sequence") for i in range(40)]
    summary = summarise(grade(table(*[
        ("sequence", 8, "Nothing changes.", "Nothing changes." if i < 20 else "No.")
        for i in range(40)])))
    warning, = warn_small_samples(summary, TaskDataset(table_of(places), recipes))
    low, high = wilson_interval(5, 10)
    assert "sequence of 8: 40 samples show only 10 different places" in warning
    assert f"with each place counted once it is {low:.0%} to {high:.0%}" in warning


def test_a_summary_of_another_dataset_is_refused():
    summary, _ = asked(20, 20, right=10)
    with pytest.raises(ValueError, match="refer of 1: the summary counts 20 samples and the "
                                         "dataset holds 7"):
        warn_small_samples(summary, asked(7, 7, right=3)[1])


# --- free text ---------------------------------------------------------------------------------

def described(truth: Truth, rows: list[int]) -> TaskDataset:
    recipes = [Recipe((row,), "<image>Describe the image.", truth.captions[row][0], "describe")
               for row in rows]
    return TaskDataset(type("Table", (), {"truth": truth}), recipes)


def test_any_true_caption_scores_full_and_its_facts_are_found(earth_truth):
    dataset = described(earth_truth, list(range(20)))
    other = pd.DataFrame({"prediction": [earth_truth.captions[row][1 + row % 4]
                                         for row in range(20)]})
    scores = free_text_scores(dataset, other)
    assert scores["bleu"] == pytest.approx(100) and scores["chrf"] == pytest.approx(100)
    assert scores["facts_found"] == scores["facts_true"] == 1


def test_words_in_common_do_not_make_a_text_true(earth_truth):
    """Every feature moved: most words stay, and so does most of BLEU; the facts do not."""
    rows = [row for row in range(60) if earth_truth.scenes[row].features][:20]
    swapped = [earth_truth.captions[row][0].replace("left", "#").replace("right", "left")
               .replace("#", "right").replace("top", "#").replace("bottom", "top")
               .replace("#", "bottom") for row in rows]
    scores = free_text_scores(described(earth_truth, rows), pd.DataFrame({"prediction": swapped}))
    assert scores["bleu"] > 50
    assert scores["facts_found"] < 0.7 and scores["facts_true"] < 0.7


def test_facts_found_and_facts_true_are_two_things(earth_truth):
    """A text that says little but nothing wrong; and one that says nothing."""
    dataset = described(earth_truth, list(range(20)))
    covers = [f"Cover: {earth_truth.scenes[row].cover}." for row in range(20)]
    scores = free_text_scores(dataset, pd.DataFrame({"prediction": covers}))
    facts = sum(len(tiny_earth.scene_facts(earth_truth.scenes[row])) for row in range(20))
    assert scores["facts_true"] == 1 and scores["facts_found"] == pytest.approx(20 / facts)
    silent = free_text_scores(dataset, pd.DataFrame({"prediction": [""] * 20}))
    assert silent["facts_found"] == silent["bleu"] == 0 and np.isnan(silent["facts_true"])


def test_photographs_may_have_different_numbers_of_captions():
    truth = Truth([None] * 2, [["A dog runs on the beach ."],
                               ["Two men walk.", "Two men walk down a street."]], [(0,), (1,)])
    texts = pd.DataFrame({"prediction": ["A dog runs on the beach .",
                                         "Two men walk down a street."]})
    scores = free_text_scores(described(truth, [0, 1]), texts)
    assert scores == {"bleu": pytest.approx(100), "chrf": pytest.approx(100)}


def test_answers_about_captioned_images_may_be_any_of_their_captions():
    """A trap: with one caption drawn as THE answer, a perfect model is right one time in five."""
    captions = [["A dog runs on the beach.", "A dog by the sea."],
                ["Two men walk.", "Two men walk down a street."]]
    truth = Truth([None] * 2, captions, [(0,), (1,)])
    refer = Recipe((0, 1), "<image><image>Describe <image_2>.", "Two men walk.", "refer")
    compare = Recipe((0, 1), "<image><image>What is the difference?", "", "compare")
    questions = TaskDataset(type("Table", (), {"truth": truth}), [refer, compare])
    texts = pd.DataFrame({"prediction": [
        "Two men walk down a street.",
        "<image_1>: a dog by the sea; <image_2>: two men walk."]})
    assert caption_pair(captions[0][1], captions[1][0]) == texts["prediction"][1]
    assert free_text_scores(questions, texts)["bleu"] == pytest.approx(100)
    assert free_text_scores(questions, texts[::-1])["bleu"] < 50
    bare = Truth([None] * 2, [captions[0], []], [(0,), (1,)])
    for question in (refer, compare):
        alone = TaskDataset(type("Table", (), {"truth": bare}), [question])
        with pytest.raises(ValueError, match="sample 0 shows row 1, which has no caption"):
            free_text_scores(alone, texts[:1])


def test_only_what_has_one_right_answer_is_graded(earth_truth):
    captioned = Truth([None], [["A dog runs."]], [(0,)])
    assert [t for t in TASKS if not is_free_text(t, captioned)] == ["select"]
    assert [t for t in TASKS if is_free_text(t, earth_truth)] == ["describe"]


def test_what_is_not_a_description_of_a_captioned_image_is_refused(earth_truth, dataset):
    with pytest.raises(ValueError, match="2 predictions for 1 samples"):
        free_text_scores(described(earth_truth, [0]), pd.DataFrame({"prediction": ["a", "b"]}))
    with pytest.raises(ValueError, match="sample 0 is of 'select', which has one right answer"):
        free_text_scores(dataset.of_task("select"), pd.DataFrame({"prediction": ["a"] * 6}))
    bare = replace(earth_truth, captions=[[] for _ in earth_truth.captions])
    dataset = TaskDataset(type("Table", (), {"truth": bare}),
                          described(earth_truth, [3]).recipes)
    with pytest.raises(ValueError, match="sample 0 shows row 3, which has no caption"):
        free_text_scores(dataset, pd.DataFrame({"prediction": ["a"]}))


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
    pixels = processor.pixel_values([earth_table.image(i) for i in range(len(earth_table))])
    table = replace(earth_table, image_features=make_model().encode_images(pixels).half())
    return build_tasks(table, {"select 2": 6, "sequence 3": 5, "refer 1": 4}, seed=0)


def test_predictions_come_in_the_order_of_the_samples(model, processor, dataset):
    together = predict(model, processor, dataset, batch_size=4, max_new_tokens=5)
    assert together["answer"].tolist() == [r.answer for r in dataset.recipes]
    assert together["num_images"].tolist() == [len(r.rows) for r in dataset.recipes]
    for i, text in enumerate(together["prediction"]):
        alone = replace(dataset, recipes=[dataset.recipes[i]])
        assert predict(model, processor, alone, max_new_tokens=5)["prediction"].item() == text
    assert together["prediction"].nunique() > 3


def test_pictures_and_their_features_are_answered_alike(model, processor, dataset):
    table = dataset.table
    features = model.encode_images(
        processor.pixel_values([table.image(i) for i in range(len(table))]))
    pictures, encoded = (replace(dataset, table=replace(table, image_features=each))
                         for each in (None, features))
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
    """A trap: left with its own images it is answered right, and the control looks too good."""
    alone = replace(dataset, recipes=dataset.of_task("select").recipes[:1])
    with pytest.raises(ValueError, match="there is only one 'select' with 2 images"):
        shuffled(alone)


@given(st.lists(st.integers(0, 99), min_size=2, max_size=6, unique=True), st.data())
def test_permuted_answers_name_the_same_image(rows, data):
    k = data.draw(st.integers(1, len(rows)))
    recipe = Recipe(tuple(rows), "<image>" * len(rows) + "Which?", f"<image_{k}>", "select")
    seed = data.draw(st.integers(0, 99))
    new, = permuted(TaskDataset(None, [recipe]), seed).recipes
    assert sorted(new.rows) == sorted(rows)
    assert new.rows != recipe.rows or len(rows) == 1    # a trap: half of all pairs stay by chance
    assert new.rows[int(new.answer[7:-1]) - 1] == rows[k - 1]
    assert new.prompt == recipe.prompt


def test_permuted_changes_orders_and_takes_selections_only(dataset):
    selections = dataset.of_task("select")
    for new, old in zip(permuted(selections).recipes, selections.recipes, strict=True):
        assert new.rows != old.rows
    with pytest.raises(ValueError, match="only selections can be permuted"):
        permuted(dataset)


@given(st.integers(1, 7).flatmap(lambda n: st.tuples(
    st.just(n), st.integers(1, n), st.integers(0, n))), st.integers(0, 99))
def test_one_more_image_moves_names_and_nothing_else(case, seed):
    """Prompt with the question before, between or after the images; names in it move along."""
    num_images, k, before = case
    prompt = "<image>" * before + f"Describe <image_{k}>." + "<image>" * (num_images - before)
    recipe = Recipe(tuple(range(num_images)), prompt, f"<image_{k}> it is.", "refer")
    truth = Truth([None] * 9, [["text"]] * 9, [(row,) for row in range(9)])
    dataset = TaskDataset(type("Table", (), {"truth": truth}), [recipe])
    new, = with_unrelated(dataset, seed).recipes
    assert [row for row in new.rows if row < num_images] == list(recipe.rows)
    assert len(new.rows) == num_images + 1 == new.prompt.count("<image>")
    named = new.rows.index(k - 1) + 1
    assert new.prompt.replace("<image>", "") == f"Describe <image_{named}>."
    assert new.answer == f"<image_{named}> it is."
    at = [new.prompt[:i].count("<image>") for i in range(len(new.prompt))
          if new.prompt.startswith("Describe", i)][0]
    assert at in (before, before + 1)           # the question stays between the same images
    if before == num_images:
        assert at == before + 1                 # after all of them, as it was


def holds(text: str, scene) -> bool:
    """Is a description of a selection true of a scene? Read from the text alone."""
    return text == tiny_earth.cover_phrase(scene.cover) or text in [
        words for f in scene.features for words in (with_article(f.kind), tiny_earth.phrase(f))
    ] or tiny_earth.facts(text) == tiny_earth.scene_facts(scene)


def test_the_image_put_into_a_selection_does_not_fit_its_description(earth_table):
    """Any image at all would often be a second right answer."""
    dataset = build_tasks(earth_table, {"select 2": 200, "select 4": 200}, seed=3)
    scenes, second = earth_table.truth.scenes, 0
    for old, new in zip(dataset.recipes, with_unrelated(dataset, seed=4).recipes, strict=True):
        text = old.prompt.split("Which image shows: ")[1][:-1]
        right = [k for k, row in enumerate(new.rows, 1) if holds(text, scenes[row])]
        assert [f"<image_{k}>" for k in right] == [new.answer]
        assert new.prompt.endswith(f"<image>Which image shows: {text}?")
        second += holds(text, scenes[(old.rows[0] * 7 + 5) % len(scenes)])
    assert second > 10


def test_the_image_put_in_is_of_another_place(earth_table):
    """Frames of one place look alike: another of them would not be an unrelated image."""
    dataset = build_tasks(earth_table, {"select 2": 60, "refer 2": 60}, seed=5)
    places = {row: rows for rows in earth_table.truth.sites for row in rows}
    positions = set()
    for old, new in zip(dataset.recipes, with_unrelated(dataset, seed=6).recipes, strict=True):
        added, = set(new.rows) - set(old.rows)
        assert not set(places.get(added, (added,))) & set(old.rows)
        positions.add(new.rows.index(added))
    assert positions == {0, 1, 2}


def test_what_another_image_could_change_is_refused(earth_table, caption_truth):
    compare = build_tasks(earth_table, {"compare 2": 3}, seed=0)
    with pytest.raises(ValueError, match=r"sample 0 is of 'compare', .*of_task\('select'\)"):
        with_unrelated(compare)
    full = build_tasks(earth_table, {"select 3": 3}, seed=0)
    with pytest.raises(ValueError, match="sample 0 has 3 images and the model has names for 3"):
        with_unrelated(full, max_images=3)
    every_row = [Recipe(tuple(range(4)), "<image>" * 4 + "Which?", "<image_1>", "select")]
    few = Truth([None] * 4, caption_truth.captions[:4], caption_truth.sites[:4])
    with pytest.raises(ValueError, match="none of the 4 images is both of another place"):
        with_unrelated(TaskDataset(type("Table", (), {"truth": few}), every_row))


def test_captioned_selections_get_an_image_of_no_common_caption():
    """The same photograph twice in a folder would be a second right answer."""
    truth = Truth([None] * 4, [["A dog."], ["A cat."], ["A dog.", "An animal."], ["A car."]],
                  [(row,) for row in range(4)])
    recipe = Recipe((0, 1), "<image><image>Which image shows: a dog?", "<image_1>", "select")
    dataset = TaskDataset(type("Table", (), {"truth": truth}), [recipe])
    for seed in range(20):
        new, = with_unrelated(dataset, seed).recipes
        assert set(new.rows) == {0, 1, 3} and new.rows[int(new.answer[7:-1]) - 1] == 0


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
    expected = dataset.table.image_features.float().mean(0)
    for i in (0, 7):
        features = unseeing[i].image_features
        assert features.shape == dataset[i].image_features.shape
        assert all(torch.allclose(image.float(), expected, atol=1e-3) for image in features)
    assert [r.answer for r in unseeing.recipes] == [r.answer for r in dataset.recipes]


def test_blind_keeps_one_image_in_memory_and_not_one_for_each_row(dataset):
    """A trap: a mean repeated for each row of a large table is as large as the table."""
    unseen = blind(dataset).table.image_features
    assert len(unseen) == len(dataset.table)
    assert unseen.untyped_storage().nbytes() == unseen[0].numel() * unseen.element_size()


def test_blind_needs_encoded_images(dataset):
    pictures = replace(dataset, table=replace(dataset.table, image_features=None))
    with pytest.raises(ValueError, match="blind needs encoded images: set table.image_features"):
        blind(pictures)


def test_controls_leave_the_samples_as_they_were(dataset):
    before, features = list(dataset.recipes), dataset.table.image_features
    for control in (blind, shuffled):
        control(dataset)
    permuted(dataset.of_task("select"))
    with_unrelated(dataset.of_task("select"))
    assert dataset.recipes == before and dataset.table.image_features is features
