"""The models in data/: whole, small enough, and as good as the figures beside them say."""

import json
import shutil

import pytest
import torch
from safetensors import safe_open

from vlm_utils.datasets import TaskDataset, build_recipes, build_tasks, load_image_table
from vlm_utils.evaluation import evaluate, free_text_scores, predict, shuffled
from vlm_utils.loading import load_base_model, load_checkpoint
from vlm_utils.making import trained_model
from vlm_utils.profiles import data_folder, get_profile
from vlm_utils.real_data import INSTRUCTIONS, LONGEST_ANSWER, instruct, score_tasks
from vlm_utils.training import encode_table

MODELS = ("tiny_vlm_base", "tiny_vlm", "tiny_vlm_time", "tiny_vlm_cross",
          "tiny_vlm_tasks")
# What the course promises; what was measured stands in each figures.json.
BASE_FLOOR = 0.99
# One test sequence in eight has clouds or another season: of those, the trained model had 94 to
# 98% right, and 98.6 to 99.1% of the clear ones of 2 to 4 frames.
FLOORS = {("select", 8): 0.99, ("compare", 2): 0.985, ("refer", 8): 0.99,
          **{("sequence", frames): 0.97 for frames in (2, 3, 4, 8)},
          ("sequence", 12): 0.96, ("sequence", 16): 0.94}
FLOOR = 0.98  # of every other task and number of images


@pytest.fixture(scope="module")
def table():
    return load_image_table(get_profile("tiny"), "test")


@pytest.mark.parametrize("name", MODELS)
def test_weights_are_safetensors_of_at_most_8_mb(name):
    folder = data_folder() / name
    assert sum(f.stat().st_size for f in folder.iterdir()) <= 8_000_000
    assert (folder / "model.safetensors").is_file()
    assert not [f for f in folder.iterdir() if f.suffix in (".bin", ".pt", ".pkl")]


def test_all_data_is_at_most_40_mb():
    assert sum(f.stat().st_size for f in data_folder().rglob("*") if f.is_file()) <= 40_000_000


def test_figures_of_the_base_model_reach_what_the_course_promises():
    figures = json.loads((data_folder() / "tiny_vlm_base" / "figures.json").read_text())
    assert figures["split"] == "test"
    assert figures["exact_answers"] >= BASE_FLOOR
    assert figures["caption_facts_found"] >= FLOOR
    assert figures["caption_facts_true"] >= FLOOR


def test_base_model_answers_as_its_figures_say(table):
    figures = json.loads((data_folder() / "tiny_vlm_base" / "figures.json").read_text())
    model, processor = load_base_model(get_profile("tiny"))
    questions = TaskDataset(table, build_recipes(table.truth, {"ask 1": 300}, seed=5))
    answers = predict(model, processor, questions)
    assert abs((answers["prediction"] == answers["answer"]).mean()
               - figures["exact_answers"]) < 0.04


@pytest.fixture(scope="module")
def trained(table):
    model, processor = load_checkpoint(data_folder() / "tiny_vlm")
    dataset = build_tasks(table, {"select 3": 200, "compare 2": 150, "sequence 2": 100,
                                  "sequence 3": 100, "sequence 4": 100}, seed=5)
    dataset.table.image_features = encode_table(table, model, processor)
    return model, processor, dataset


def test_trained_model_answers_as_its_figures_say(trained):
    model, processor, dataset = trained
    figures = json.loads((data_folder() / "tiny_vlm" / "figures.json").read_text())
    promised = {(row["task"], row["num_images"]): row["accuracy"] for row in figures["tasks"]}
    measured = evaluate(model, processor, dataset)
    assert len(measured) == 5
    for row in measured.itertuples():
        assert abs(row.accuracy - promised[row.task, row.num_images]) < 0.04, row
        assert row.low > (1 / row.num_images if row.task == "select" else row.prior)
        assert row.invalid < 0.02


def test_figures_of_the_trained_model_reach_what_the_course_promises():
    figures = json.loads((data_folder() / "tiny_vlm" / "figures.json").read_text())
    measured = {(row["task"], row["num_images"]): row["accuracy"] for row in figures["tasks"]}
    assert FLOORS.keys() <= measured.keys() and ("refer", 16) in measured
    for task, accuracy in measured.items():
        assert accuracy >= FLOORS.get(task, FLOOR), task


def test_figures_can_be_measured_again_without_training(tmp_path, monkeypatch):
    folder = tmp_path / "tiny_vlm"
    shutil.copytree(data_folder() / "tiny_vlm", folder)
    before = json.loads((folder / "figures.json").read_text())
    (folder / "figures.json").write_text(json.dumps(before | {"tasks": [], "descriptions": {}}))
    monkeypatch.setattr(trained_model, "TEST_MIXTURE", {"select 2": 40})
    monkeypatch.setattr(trained_model, "TEST_DESCRIPTIONS", 20)
    monkeypatch.setenv("VLM_IMAGES", str(tmp_path))     # a user's images must not count here
    monkeypatch.setattr("sys.argv", ["trained_model", "--evaluate", "--output", str(folder)])
    trained_model.main()
    after = json.loads((folder / "figures.json").read_text())
    assert (after["steps"], after["minutes"]) == (before["steps"], before["minutes"])
    assert [(row["task"], row["samples"]) for row in after["tasks"]] == [("select", 40)]
    assert after["tasks"][0]["accuracy"] > 0.9
    assert after["descriptions"]["facts_true"] > 0.9


def test_trained_model_still_describes_a_single_image(table):
    """Trained on several images alone, it had forgotten how: no fact found, no word of a text."""
    model, processor = load_checkpoint(data_folder() / "tiny_vlm")
    dataset = TaskDataset(table, build_recipes(table.truth, {"describe 1": 60}, seed=3))
    scores = free_text_scores(dataset, predict(model, processor, dataset))
    assert scores["facts_found"] > 0.9
    assert scores["facts_true"] > 0.9


def test_trained_model_fails_on_the_images_of_other_questions(trained):
    model, processor, dataset = trained
    mistaken = evaluate(model, processor, shuffled(dataset.of_task("select")))
    assert mistaken["low"].iloc[0] < 1 / 3
    assert mistaken["accuracy"].iloc[0] < 1 / 3 + 0.1
    seeing = evaluate(model, processor, dataset.of_task("select"))
    assert seeing["low"].iloc[0] > mistaken["high"].iloc[0]


def test_figures_of_the_time_model_reach_what_lesson_07_shows():
    """What was wanted stands in the comments, where it was not reached."""
    figures = json.loads((data_folder() / "tiny_vlm_time" / "figures.json").read_text())
    assert figures["split"] == "test"
    measured = {(row["task"], row["num_images"]): row["accuracy"] for row in figures["tasks"]}
    assert measured["sequence", 8] >= 0.97                          # 0.99
    assert measured["sequence", 12] >= 0.98 and measured["sequence", 16] >= 0.95     # 0.97
    assert measured["when", 8] >= 0.95 and measured["when", 16] >= 0.95
    assert measured["date", 8] >= 0.95 and figures["shuffled_dates"]["date"] <= 0.2
    where, change = figures["boxes"]["locate"], figures["boxes"]["locate_change"]
    assert where["mean_iou"] >= 0.75 and where["above_75"] >= 0.60
    assert change["pixel_f1"] >= 0.80 and change["none_right"] >= 0.98
    assert max(each["false_alarms"] for each in figures["weather"].values()) <= 0.03


def test_figures_of_the_cross_attention_model_reach_what_lesson_08_shows():
    """What was wanted stands in the comments, where it was not reached."""
    figures = json.loads((data_folder() / "tiny_vlm_cross" / "figures.json").read_text())
    assert figures["split"] == "test"
    measured = {(row["task"], row["num_images"]): row for row in figures["tasks"]}
    accuracy = {key: row["accuracy"] for key, row in measured.items()}
    assert accuracy["select", 3] >= 0.98 and accuracy["sequence", 4] >= 0.92
    assert accuracy["compare", 2] >= 0.96                                       # 0.97
    assert accuracy["refer", 3] >= 0.98
    for key, row in measured.items():
        guess = max(row["prior"], row["chance"] or 0)
        assert row["blind"] <= guess + 0.06 and row["shuffled"] <= guess + 0.06, key


def test_figures_of_the_tasks_model_reach_what_lesson_09_shows():
    figures = json.loads((data_folder() / "tiny_vlm_tasks" / "figures.json").read_text())
    assert figures["split"] == "test" and figures["minutes"] <= 10
    measured = {row["task"]: row for row in figures["tasks"]}
    score = {task: row["score"] for task, row in measured.items()}
    assert score.keys() == set(INSTRUCTIONS)
    assert score["caption"] >= 0.98 and score["vqa"] >= 0.98 and score["detect"] >= 0.92
    assert score["change"] >= 0.97 and score["changed"] >= 0.98 and score["change_box"] >= 0.96
    for task, row in measured.items():
        assert row["in_form"] >= 0.995, task
        assert row["blind"] < row["low"] - 0.3, task
    assert figures["detections"]["none_right"] >= 0.98


def test_the_tasks_model_is_stored_in_half_precision_and_answers_in_full_as_its_figures_say(table):
    """A trap: half precision on a CPU is slow, and some of its operations are not there."""
    folder = data_folder() / "tiny_vlm_tasks"
    with safe_open(folder / "model.safetensors", "pt") as weights:
        stored = {weights.get_tensor(name).dtype for name in weights.keys()}
    model, processor = load_checkpoint(folder)
    assert stored == {torch.float16} and {p.dtype for p in model.parameters()} == {torch.float32}
    table.image_features = encode_table(table, model, processor)
    asked = instruct(table, dict.fromkeys(INSTRUCTIONS, 120), seed=5)
    said = score_tasks(predict(model, processor, asked, max_new_tokens=LONGEST_ANSWER))
    figures = json.loads((folder / "figures.json").read_text())
    promised = {row["task"]: row["score"] for row in figures["tasks"]}
    for row in said.itertuples():
        assert abs(row.score - promised[row.task]) < 0.06, row
