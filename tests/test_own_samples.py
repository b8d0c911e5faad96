"""Multi-image samples of the user's own, and samples without images, through train and predict."""

import io
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from datasets import Dataset, Features, List, Value
from datasets import Image as ImageFeature
from PIL import Image
from small_models import batch_of

from vlm_utils.answering import answer_sample, answer_samples
from vlm_utils.datasets import (
    EncodedSamples,
    Recipe,
    Sample,
    TaskDataset,
    build_tasks,
    encode_samples,
    own_samples,
)
from vlm_utils.evaluation import blind, evaluate, predict, shuffled
from vlm_utils.loading import load_checkpoint
from vlm_utils.profiles import REPOSITORY
from vlm_utils.training import TrainingSettings, encode_table, start_run, train

SETTINGS = TrainingSettings(steps=2, batch_size=4, warmup_steps=0, window=1)


@pytest.fixture
def files(tmp_path, picture, monkeypatch):
    """Six pictures in the folder that the test runs in."""
    monkeypatch.chdir(tmp_path)
    for i in range(6):
        picture(i, (30 + i, 20)).save(f"{i}.png")
    return [f"{i}.png" for i in range(6)]


def pairs(files, count=8):
    """Questions about two pictures each; every picture is in several."""
    return [{"images": [files[i % 6], files[(i + 1) % 6]], "prompt": "Was a house built?",
             "answer": ["Yes.", "No."][i % 2]} for i in range(count)]


# --- the ten lines of the README -----------------------------------------------------------------

# Word for word as the README has it.
TEN_LINES = '''
from vlm_utils.datasets import own_samples
from vlm_utils.evaluation import evaluate
from vlm_utils.loading import load_base_model
from vlm_utils.profiles import TrainingSettings, get_profile
from vlm_utils.training import start_run, train

model, processor = load_base_model(get_profile())
samples = own_samples([
    {"images": ["before.png", "after.png"], "prompt": "Was a house built?", "answer": "Yes."},
    {"images": ["north.png", "south.png"], "prompt": "Was a house built?", "answer": "No."}])
train(start_run(model, processor, samples, TrainingSettings(steps=20, batch_size=2)), "my_model")
print(evaluate(model, processor, samples))
'''


def test_the_ten_lines_of_the_readme_train_save_and_evaluate(tmp_path, picture, monkeypatch,
                                                             capsys):
    monkeypatch.chdir(tmp_path)
    for i, name in enumerate(["before", "after", "north", "south"]):
        picture(i).save(f"{name}.png")
    assert TEN_LINES in (REPOSITORY / "README.md").read_text(encoding="utf-8")
    assert "_" not in {word[0] for word in re.findall(r"[\w]+", TEN_LINES)}     # no private name
    exec(TEN_LINES, {})
    assert re.search(r"own +2 +2 ", capsys.readouterr().out)
    model, _ = load_checkpoint(tmp_path / "my_model")
    assert not model.training


# --- rows of any kind ----------------------------------------------------------------------------

def as_bytes(file):
    stream = io.BytesIO()
    Image.open(file).save(stream, format="png")
    return stream.getvalue()


@pytest.mark.parametrize("kind", ["paths", "Path", "bytes", "PIL", "data set", "data set of paths",
                                  "selected", "generator"])
def test_rows_of_every_kind_become_the_same_samples(files, tmp_path, kind):
    rows = pairs(files)
    expected = own_samples(rows)
    make = {"Path": tmp_path.__truediv__, "bytes": as_bytes, "PIL": Image.open}.get(kind, str)
    rows = [row | {"images": [make(file) for file in row["images"]]} for row in rows]
    if kind.startswith("data set") or kind == "selected":
        column = Value("string") if "paths" in kind else ImageFeature()
        rows = Dataset.from_list(rows, features=Features({
            "images": List(column), "prompt": Value("string"), "answer": Value("string")}))
    if kind == "selected":
        rows = rows.select([3, *range(8)]).select(range(1, 9))
    found = own_samples(iter(rows) if kind == "generator" else rows)
    assert found.recipes == expected.recipes and len(found.table) == 6
    for row in range(6):
        assert np.array_equal(found.table.image(row), expected.table.image(row))


def test_what_several_samples_share_is_kept_once(files):
    dataset = own_samples(pairs(files))
    assert len(dataset.table) == 6 and len(dataset) == 8
    assert dataset.recipes[0] == Recipe((0, 1), "<image><image>Was a house built?", "Yes.", "own")
    assert [image.width for image in dataset[1].images] == [31, 32]
    assert dataset.recipes[6].rows == (0, 1)


def test_where_the_images_go_may_be_said(files):
    row = {"images": files[:2], "prompt": "Before <image> after <image> of <image_2>?",
           "answer": "<image_1>", "task": "select"}
    recipe, = own_samples([row]).recipes
    assert (recipe.prompt, recipe.answer, recipe.task) == (row["prompt"], "<image_1>", "select")


def test_other_images_have_another_fingerprint(files, picture):
    first = own_samples(pairs(files)).table.dataset._fingerprint
    assert own_samples(pairs(files)).table.dataset._fingerprint == first
    picture(50, (30, 20)).save(files[0])
    assert own_samples(pairs(files)).table.dataset._fingerprint != first


@pytest.mark.parametrize(("change", "says"), [
    ({"images": ["0.png", "gone.png"]}, r"row 2, image 2 .*gone.png.: cannot be opened"),
    ({"images": "0.png"}, "row 2: images is one image: give a list"),
    ({"images": ["0.png", 7]}, "row 2, image 2: is a int, not a path, bytes or a PIL image"),
    ({"images": ["0.png", b"no picture"]}, "row 2, image 2: is not an image"),
    ({"prompt": "<image>Was it?"}, "row 2: the prompt has 1 <image> and the row 2 images"),
    ({"prompt": " "}, "row 2: prompt is ' ', not a text"), ({"prompt": None}, "row 2: prompt is N"),
    ({"answer": ""}, "row 2: answer is '', not a text"), ({"answer": 3}, "row 2: answer is 3"),
    ({"prompt": "Describe <image_3>."}, "row 2: <image_3> is named, and the row has 2 images"),
    ({"answer": "<image_3>"}, "row 2: <image_3> is named, and the row has 2 images")])
def test_a_wrong_row_is_named(files, change, says):
    rows = pairs(files)
    with pytest.raises(ValueError, match=f"mine, {says}"):
        own_samples([*rows[:2], rows[2] | change], "mine")


@pytest.mark.parametrize(("rows", "says"), [
    ([], "holds no rows"), ([("a", "b")], "row 0: is a tuple, not a mapping"),
    ([{"image": 1, "question": 2}], "row 0: lacks images, prompt, answer .found: image, question"),
    (Dataset.from_dict({"images": [["a"]], "text": ["x"]}), "lacks prompt, answer .found: images"),
    (Dataset.from_dict({"images": ["a"], "prompt": ["x"], "answer": ["y"]}),
     "images is a column of")])
def test_what_is_no_table_of_samples_is_refused(rows, says):
    with pytest.raises(ValueError, match=f"own samples.*{says}"):
        own_samples(rows)


def test_rows_that_cannot_be_read_can_be_collected(files):
    """For a reader of many files, which counts them; what is wrong otherwise still raises."""
    rows = pairs(files)
    rows[2]["images"], rows[5]["images"] = ["0.png", "gone.png"], [b"no picture", "1.png"]
    refused = []
    found = own_samples(rows, "mine", refused)
    assert [number for number, _ in refused] == [2, 5]
    assert "gone.png" in refused[0][1] and "is not an image" in refused[1][1]
    kept = own_samples([row for number, row in enumerate(rows) if number not in (2, 5)])
    assert found.recipes == kept.recipes and len(found.table) == 6
    for row in range(6):
        assert np.array_equal(found.table.image(row), kept.table.image(row))
    with pytest.raises(ValueError, match="mine: no row has images that can be read .*gone.png"):
        own_samples([rows[2]], "mine", [])
    with pytest.raises(ValueError, match="row 0: answer is '', not a text"):
        own_samples([rows[0] | {"answer": ""}], "mine", [])


def test_own_samples_take_the_way_of_all_others(files, model, processor, tmp_path):
    """Encoded beforehand, trained on, saved, asked, and with the images taken away."""
    dataset = own_samples(pairs(files))
    dataset.table.image_features = encode_table(dataset.table, model, processor)
    assert dataset[0].image_features.shape[0] == 2
    history = train(start_run(model, processor, dataset, SETTINGS), tmp_path / "run")
    assert history["loss"].notna().all() and (tmp_path / "run" / "config.json").is_file()
    for control in (dataset, blind(dataset), shuffled(dataset)):
        summary = evaluate(model, processor, control, max_new_tokens=2)
        assert summary["task"].tolist() == ["own"] and summary["samples"].tolist() == [8]


def test_a_question_whose_answer_is_not_known_can_be_asked_and_not_graded(files, model, processor):
    dataset = own_samples([{"images": files[:2], "prompt": "What changed?", "answer": None}])
    assert len(predict(model, processor, dataset, max_new_tokens=2)) == 1
    with pytest.raises(ValueError, match="sample 0 has no true answer"):
        evaluate(model, processor, dataset, max_new_tokens=2)
    with pytest.raises(ValueError, match="sample 0 of 1: the sample has no answer .*0.png"):
        start_run(model, processor, dataset, SETTINGS)


def test_deep_pictures_of_ones_own_are_scaled_and_said(tmp_path):
    values = np.linspace(0, 4000, 64).reshape(8, 8).astype(np.uint16)
    with pytest.warns(UserWarning, match="4095 as white"):
        dataset = own_samples([{"images": [Image.fromarray(values)], "prompt": "What is it?",
                                "answer": "Bands."}])
    assert dataset[0].images[0].getextrema()[0] == (0, 249)


# --- texts alone, and among images ---------------------------------------------------------------

def texts(count=6):
    return [{"images": [], "prompt": f"How much is {i} and one?", "answer": f"{i + 1}."}
            for i in range(count)]


@pytest.mark.parametrize("encoded", [False, True])
@pytest.mark.parametrize("mixed", [False, True])
def test_samples_without_images_are_trained_on_and_asked(files, model, processor, tmp_path, encoded,
                                                         mixed):
    dataset = own_samples(texts() + (pairs(files, 6) if mixed else []))
    if encoded and mixed:
        dataset.table.image_features = encode_table(dataset.table, model, processor)
    history = train(start_run(model, processor, dataset, SETTINGS), tmp_path / "run")
    assert history["loss"].notna().all()
    found = predict(model, processor, dataset, batch_size=len(dataset), max_new_tokens=3)
    assert len(found) == len(dataset) and found["prediction"].map(type).eq(str).all()
    assert found["num_images"].value_counts().to_dict() == ({0: 6, 2: 6} if mixed else {0: 6})
    assert evaluate(model, processor, dataset, max_new_tokens=3)["samples"].sum() == len(dataset)


def test_a_text_among_images_is_answered_as_it_is_alone(model, processor, make_sample):
    alone = Sample([], "How much is one and one?", "2.", "own")
    together = [make_sample(2), alone, make_sample(1, seed=1)]
    assert answer_samples(model, processor, together, max_new_tokens=6)[1] == \
        answer_sample(model, processor, alone, max_new_tokens=6)


def test_a_batch_of_texts_alone_has_no_images(model, processor):
    samples = [Sample([], f"Say {word}.", word, "own") for word in ("yes", "no more")]
    batch = batch_of(samples, processor)
    assert set(batch) == {"input_ids", "attention_mask", "labels"}
    assert model(**batch).loss.isfinite()


def test_texts_stand_among_the_tasks_of_a_table(earth_table, model, processor):
    """A recipe without rows, in a table whose images are encoded."""
    table = replace(earth_table, image_features=torch.zeros(len(earth_table), 16, 32))
    dataset = build_tasks(table, {"select 2": 4}, seed=0)
    mixed = TaskDataset(table, [*dataset.recipes, Recipe((), "Say yes.", "Yes.", "own")])
    assert mixed[4].num_images == 0 and mixed[4].images == [] and mixed[4].image_features is None
    assert [e.get("image_features", torch.zeros(0)).shape[0] for e in EncodedSamples(
        mixed, processor)] == [2, 2, 2, 2, 0]
    assert len(encode_samples([mixed[i] for i in range(5)], processor)) == 5
    assert len(predict(model, processor, mixed, max_new_tokens=2)) == 5
