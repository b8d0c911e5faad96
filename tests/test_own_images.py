"""A folder of the user's own through what the lessons do with it, however small it is."""

import io
import json
import re
import shutil
import warnings
from contextlib import nullcontext
from dataclasses import replace

import nbformat
import numpy as np
import pytest
from PIL import Image

from vlm_utils.datasets import (
    EncodedSamples,
    build_tasks,
    encode_sample,
    encode_samples,
    is_free_text,
    load_image_table,
)
from vlm_utils.datasets.splits import group_copies
from vlm_utils.evaluation import (
    blind,
    evaluate,
    free_text_scores,
    permuted,
    predict,
    shuffled,
    warn_small_samples,
    with_unrelated,
)
from vlm_utils.loading import load_base_model
from vlm_utils.profiles import REPOSITORY, get_profile
from vlm_utils.sources.picture_folders import examine, list_pictures, load_image_folder
from vlm_utils.training import TrainingSettings, encode_table, start_run, train

TINY = get_profile("tiny")
SPLITS = ("train", "validation", "test")
# The mixtures of the lessons, their tasks as often as a small folder bears.
MIXTURE = dict.fromkeys(["describe 1", "select 2", "select 3", "compare 2", "sequence 2-4",
                         "refer 1-3"], 60)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    path = tmp_path / "mine"
    path.mkdir()
    monkeypatch.setenv("VLM_IMAGES", str(path))
    return path


def fill(folder, picture, captions):
    """So many different pictures with these captions; a caption may be a list of several."""
    rows = []
    for i, caption in enumerate(captions):
        picture(i).save(folder / f"{i}.png")
        several = caption if isinstance(caption, list) else [caption]
        rows.append({"file_name": f"{i}.png"} | {f"caption_{k}": t for k, t in enumerate(several)})
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))


def tables():
    return {split: load_image_table(TINY, split) for split in SPLITS}


def shown(table):
    return {table.image(row).tobytes() for row in range(len(table))}


# --- splits --------------------------------------------------------------------------------------

@pytest.mark.parametrize("count", range(1, 8))
def test_below_the_minimum_one_line_says_so_at_once(folder, picture, count):
    fill(folder, picture, [f"Thing {i}." for i in range(count)])
    for split in SPLITS:
        with pytest.raises(ValueError, match=f"mine holds {count} captioned images: the lessons "
                                             "need at least 4 to train on and 4 others to test on"):
            load_image_table(TINY, split)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_too_few_frames_are_refused_at_once(folder, picture, count):
    for i in range(count):
        picture(i).save(folder / f"{i}.png")
    with pytest.raises(ValueError, match=f"holds {count} frames without captions: .* least 4"):
        load_image_table(TINY, "test")


def test_the_same_picture_is_never_in_two_splits(folder, picture):
    """Under another name, saved again as JPEG, or at another size: a copy is a copy."""
    stream = io.BytesIO()
    smooth = [picture(i, (8, 8)).resize((96, 64), Image.Resampling.BICUBIC) for i in range(24)]
    for i, image in enumerate(smooth):
        image.save(folder / f"{i}.png")
        stream = io.BytesIO()
        image.save(stream, format="jpeg", quality=80)
        copies = (image, Image.open(stream), image.resize((48, 32), Image.Resampling.LANCZOS))
        copies[i % 3].save(folder / f"copy_{i}.png")
    rows = [{"file_name": f"{prefix}{i}.png", "caption": f"{prefix}thing {i}."}
            for prefix in ("", "copy_") for i in range(24)]
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    names = {split: {re.search(r"\d+", file)[0] for file in table.files}
             for split, table in tables().items()}
    assert not names["train"] & names["test"] and len(names["train"] | names["test"]) == 24
    assert names["validation"] == names["test"] and len(names["test"]) == 6


def test_pictures_that_differ_are_not_taken_for_copies(folder):
    """Two views of open water look alike, and are two pictures."""
    rng = np.random.default_rng(0)
    for i in range(30):
        water = 40 + rng.normal(0, 1.5, (64, 64, 3))
        Image.fromarray(water.astype(np.uint8)).save(folder / f"{i}.png")
    Image.open(folder / "7.png").save(folder / "7 again.png")
    groups = group_copies(examine(list_pictures(folder)))
    assert len(set(groups)) == 30 and groups[7] == groups[8]


def test_one_row_for_each_caption_leaves_no_picture_in_both_splits(folder, picture):
    fill(folder, picture, [""] * 10)
    rows = [{"file_name": f"{i}.png", "caption": f"{i}, wording {k}."}
            for i in range(10) for k in range(5)]
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    found = tables()
    assert (len(found["train"]), len(found["test"])) == (6, 4)
    assert not shown(found["train"]) & shown(found["test"])
    assert {len(captions) for captions in found["test"].truth.captions} == {5}


def test_every_class_has_its_share_of_the_test(folder, picture):
    for k, (name, count) in enumerate({"forest": 20, "lake": 8, "road": 12}.items()):
        (folder / name).mkdir()
        for i in range(count):
            picture(100 * k + i).save(folder / name / f"{i}.png")
    found = tables()
    counts = {split: {name: sum([name] == c for c in table.truth.captions)
                      for name in ("forest", "lake", "road")} for split, table in found.items()}
    assert counts["test"] == {"forest": 5, "lake": 2, "road": 3}
    assert counts["train"] == {"forest": 15, "lake": 6, "road": 9}
    assert found["train"].files[0].startswith("forest")


def write_splits(folder, picture, counts):
    seed = 0
    for split, names in counts.items():
        for name, count in names.items():
            (folder / split / name).mkdir(parents=True)
            for i in range(count):
                picture(seed).save(folder / split / name / f"{i}.png")
                seed += 1


def test_the_folders_own_splits_are_kept(folder, picture):
    write_splits(folder, picture, {"train": {"a": 5, "b": 4}, "validation": {"a": 1, "b": 2},
                                   "test": {"a": 3, "b": 2}})
    found = tables()
    assert {split: len(table) for split, table in found.items()} == {
        "train": 9, "validation": 3, "test": 5}
    assert all(file.startswith(split) for split, t in found.items() for file in t.files)


@pytest.mark.parametrize("there", ["validation", "test"])
def test_one_held_out_split_stands_in_for_the_other(folder, picture, there):
    write_splits(folder, picture, {"train": {"a": 3, "b": 3}, there: {"a": 2, "b": 2}})
    found = tables()
    assert found["test"].files == found["validation"].files and len(found["test"]) == 4


def test_a_training_split_alone_is_divided(folder, picture):
    write_splits(folder, picture, {"train": {"a": 6, "b": 6}})
    found = tables()
    assert (len(found["train"]), len(found["test"])) == (8, 4)


def test_a_test_picture_is_taken_out_of_the_training_split(folder, picture):
    write_splits(folder, picture, {"train": {"a": 4, "b": 4}, "test": {"a": 2, "b": 2}})
    shutil.copy(folder / "test" / "a" / "1.png", folder / "train" / "a" / "twin.png")
    with pytest.warns(UserWarning, match="twin.png is left out of train, for it is a copy of 1.png "
                                         "in test"):
        found = tables()
    assert (len(found["train"]), len(found["test"])) == (8, 4)
    assert not shown(found["train"]) & shown(found["test"])


def test_splits_without_a_training_split_are_refused(folder, picture):
    write_splits(folder, picture, {"validation": {"a": 4, "b": 4}, "test": {"a": 4, "b": 4}})
    with pytest.raises(ValueError, match="has test and validation, and no train"):
        load_image_table(TINY, "test")


@pytest.mark.parametrize(("captions", "says"), [
    (["forest"] * 9, "of the 5 images of mine train, 5 share a caption .'forest'"),
    (["Forest."] * 5 + ["forest"] * 4, "5 share a caption"),
    (["forest"] * 8 + ["lake"], "share a caption .'forest'")])
def test_captions_that_tell_nothing_apart_are_refused_at_once(folder, picture, captions, says):
    fill(folder, picture, captions)
    with pytest.raises(ValueError, match=f"{says}.* at least 2 must show something else"):
        load_image_table(TINY, "train")


def test_rows_are_named_by_their_files(folder, picture):
    fill(folder, picture, [f"Thing {i}." for i in range(9)])
    table = load_image_table(TINY, "test")
    file = table.files[2]
    assert table.where(2) == f"mine test row 2 ({file})"
    (folder / file).write_bytes(b"gone bad since")
    with pytest.raises(ValueError, match=rf"mine test row 2 .{file}.: is not an image"):
        table.image(2)


# --- captions ------------------------------------------------------------------------------------

COMMANDS = ["A <image> of a cat.", "See <image_2> and <image_9>.", "The end.<|endoftext|> Not yet.",
            "Padding <|pad|> here.", "<image>", "<<image_1>>"]


def test_commands_in_captions_are_text_and_nothing_is_cut_off(folder, picture):
    """A trap: a placeholder in an answer breaks the batch, an end token ends the lesson."""
    fill(folder, picture, [f"{COMMANDS[i % 6]} No. {i}." for i in range(12)])
    model, processor = load_base_model(TINY)
    table = load_image_table(TINY, "train")
    dataset = build_tasks(table, MIXTURE, seed=0)
    names = processor.tokenizer.convert_tokens_to_ids([f"<image_{k}>" for k in range(1, 9)])
    end = processor.tokenizer.eos_token_id
    for i, recipe in enumerate(dataset.recipes):
        encoded = encode_sample(dataset[i], processor)
        ids, learnt = encoded["input_ids"], [t for t in encoded["labels"] if t != -100]
        images = len(recipe.rows)
        assert ids.count(processor.image_token_id) == images * processor.tokens_per_image
        assert learnt.count(end) == 1 and learnt[-1] == end and ids.count(end) == 1
        assert processor.pad_token_id not in ids
        named = {"select": 1, "compare": 2}.get(recipe.task, 0)     # in the answer
        assert sum(t in names for t in learnt) == named
        assert processor.decode(learnt) == recipe.answer            # all of it comes back
    said = {text.replace("\u2060", "") for captions in table.truth.captions for text in captions}
    assert said <= {f"{COMMANDS[i % 6]} No. {i}." for i in range(12)} and len(said) == 8


def test_captions_with_commands_are_trained_on(folder, picture):
    fill(folder, picture, [f"{COMMANDS[i % 6]} No. {i}." for i in range(12)])
    model, processor = load_base_model(TINY)
    dataset = build_tasks(load_image_table(TINY, "train"), MIXTURE, seed=0)
    settings = TrainingSettings(steps=2, batch_size=16, warmup_steps=0)
    assert train(start_run(model, processor, dataset, settings))["loss"].notna().all()


def test_a_caption_that_is_too_long_for_the_model_is_named_when_the_folder_is_read(folder, picture):
    fill(folder, picture, [f"Thing {i}." for i in range(8)] + ["word " * 300])
    with pytest.raises(ValueError, match=r"metadata.jsonl, line 9: the caption 'word word.* has "
                                         r"\d+ tokens, more than the \d+ .*profile tiny.*shorten"):
        load_image_table(TINY, "train")


def test_the_longest_captions_that_are_read_fit_every_sample(folder, picture):
    """Else training dies of a sample that the loader has let through."""
    _, processor = load_base_model(TINY)
    most = processor.max_length // 3
    text = "x7" * most
    while len(processor.encode_answer(text)) - 1 > most:
        text = text[:-1]
    fill(folder, picture, [f"{i}{text[1:]}" for i in range(9)])
    dataset = build_tasks(load_image_table(TINY, "train"),
                          MIXTURE | {"select 5": 10, "refer 5": 10}, seed=0)
    assert max(EncodedSamples(dataset, processor).lengths) > 2 * most


def test_a_sample_that_is_too_long_names_its_row_and_blames_its_text(folder, picture):
    fill(folder, picture, [f"Thing {i}. " + "word " * (40 if i == 4 else 1) for i in range(9)])
    _, processor = load_base_model(TINY, max_length=60)
    table = next(table for table in tables().values() if "4.png" in table.files)
    dataset = build_tasks(table, {"describe 1": 60}, seed=0)
    row = table.files.index("4.png")
    with pytest.raises(ValueError, match=rf"sample \d+ of {len(dataset)}: the sample is \d+ tokens "
                                         rf".*: shorten its text .*row {row} .4.png"):
        EncodedSamples(dataset, processor)
    long = next(i for i, recipe in enumerate(dataset.recipes) if recipe.rows == (row,))
    with pytest.raises(ValueError, match=rf"^sample {long} of .*row {row} .4.png.*short") as error:
        encode_samples([dataset[long]], processor)
    assert "fewer images" not in str(error.value) and "of the batch" not in str(error.value)


# --- the smallest folders through the lessons ----------------------------------------------------

SMALLEST = {
    "one caption each": [f"Thing {i}." for i in range(8)],
    "several captions": [[f"Thing {i}, {k}." for k in range(5)] for i in range(9)],
    "two classes": ["cat", "dog"] * 4,
    "three classes, one of them rare": ["cat"] * 6 + ["dog"] * 4 + ["cow"] * 2,
    "a shared caption": [["A thing.", f"Thing {i}."] if i < 2 else f"No. {i}." for i in range(12)],
    "dollars": [f"It costs ${i} or ${i + 1}_{{x." for i in range(8)]}


@pytest.mark.parametrize("captions", SMALLEST.values(), ids=SMALLEST.keys())
def test_what_is_accepted_runs_through_what_the_lessons_do(folder, picture, captions, model,
                                                           processor):
    """Lessons 02 to 06: every task, the controls, scores, a training. Once these ended with an
    IndexError, a ZeroDivisionError, or a control that had nothing to take."""
    short = {"max_new_tokens": 2}
    fill(folder, picture, captions)
    found = {split: load_image_table(TINY, split, with_truth=True) for split in SPLITS}
    for table in found.values():                        # 01 and 02 show so many
        assert len([table.image(row) for row in range(4)]) == 4
        table.image_features = encode_table(table, model, processor)
    train_set = build_tasks(found["train"], dict.fromkeys(TINY.mixture, 40), seed=0)
    assert {r.task for r in train_set.recipes} == {"describe", "select", "compare", "refer"}
    assert len(build_tasks(found["train"], {"select 3": 8}, seed=0)) == 8          # lesson 06
    assert len(train_set) >= TINY.training.batch_size
    settings = TrainingSettings.of(TINY, steps=1, warmup_steps=0, batch_size=8)
    train(start_run(model, processor, train_set, settings))

    table = found["test"]
    graded = {name: 30 for name in TINY.mixture
              if not is_free_text(name.split()[0], table.truth)}
    test_set = build_tasks(table, graded, seed=2)
    assert {len(r.rows) for r in test_set.recipes} == {2, 3}
    for control in (test_set, blind(test_set), shuffled(test_set), permuted(test_set)):
        summary = evaluate(model, processor, control, **short)
        assert summary["samples"].sum() == len(test_set)
    warn_small_samples(evaluate(model, processor, test_set, **short), test_set)
    room = [recipe for recipe in test_set.recipes if len(recipe.rows) < 3]
    crowded = with_unrelated(replace(test_set, recipes=room), max_images=processor.max_images)
    assert {len(r.rows) for r in crowded.recipes} == {3}
    many = build_tasks(table, {f"select {n}": 20 for n in range(2, 9)}, seed=5)
    assert evaluate(model, processor, many, **short)["samples"].min() > 1
    free = build_tasks(table, dict.fromkeys(["describe 1", "compare 2", "refer 1-3"], 10), seed=4)
    assert free_text_scores(free, predict(model, processor, free, **short))["chrf"] >= 0


def test_selections_from_classes_have_one_right_answer(folder, picture):
    """A trap: "Which image shows: cat?" with three cats has three answers, two of them called
    wrong."""
    fill(folder, picture, ["cat", "Cat.", "dog", "cat", "dog", "cow", "cat", "dog"] * 2)
    truth = load_image_table(TINY, "train").truth
    dataset = build_tasks(load_image_table(TINY, "train"), {"select 2": 50, "select 4": 50}, seed=0)
    assert len(dataset) > 60
    for recipe in dataset.recipes:
        right = recipe.rows[int(recipe.answer[7]) - 1]
        wanted = truth.captions[right][0].rstrip(".").lower()
        others = [truth.captions[r][0].rstrip(".").lower() for r in recipe.rows if r != right]
        assert f"shows: {wanted}?" in recipe.prompt and wanted not in others


@pytest.mark.parametrize("count", [4, 5])
def test_a_few_frames_run_through_what_the_lessons_do(folder, picture, count, model, processor):
    for i in range(count):
        picture(i).save(folder / f"{i}.png")
    table = load_image_table(TINY, "test")
    assert len([table.image(row) for row in range(4)]) == 4
    dataset = build_tasks(table, MIXTURE, seed=0)
    assert {r.task for r in dataset.recipes} == {"describe", "compare", "sequence"}
    assert predict(model, processor, dataset, max_new_tokens=2)["answer"].isna().all()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert load_image_table(TINY, "test", with_truth=True).truth.has_scenes


def test_a_folder_with_brackets_in_its_name_runs_too(tmp_path, picture, monkeypatch):
    folder, output = tmp_path / "my [own] *", tmp_path / "out [1]"
    folder.mkdir()
    fill(folder, picture, [f"Thing {i}." for i in range(8)])
    monkeypatch.setenv("VLM_IMAGES", str(folder))
    monkeypatch.setenv("VLM_OUTPUT", str(output))
    model, processor = load_base_model(TINY)
    table = load_image_table(TINY, "train")
    first = encode_table(table, model, processor)
    assert len(encode_table(table, model, processor)) == len(first) == 4
    assert len(list(output.rglob("*.arrow"))) == 1      # encoded once, and found again


# --- lesson 10 ---------------------------------------------------------------------------------

def write_photographs(folder, picture):
    fill(folder, picture, [[f"Thing {i}, {k}." for k in range(3)] for i in range(26)])


def write_classes(folder, picture):
    for k, name in enumerate(["forest", "lake", "road"]):
        (folder / name).mkdir()
        for i in range(8):
            picture(100 * k + i).save(folder / name / f"{i}.png")


def write_dated_frames(folder, picture):
    for i in range(12):
        picture(i).save(folder / f"20{10 + i}-06-01.png")


def write_the_fewest(folder, picture):
    fill(folder, picture, ["cat", "dog"] * 4)


@pytest.mark.parametrize("write", [write_photographs, write_classes, write_dated_frames,
                                   write_the_fewest])
def test_lesson_10_runs_on_every_kind_of_folder(folder, picture, monkeypatch, capsys, write):
    """Cell by cell, but for the two processes, as where a check has cut off the network. Without
    captions there is nothing to learn from: then it is the profile's images."""
    write(folder, picture)
    monkeypatch.setenv("VLM_SUBSET", "16")
    monkeypatch.chdir(REPOSITORY / "notebooks")

    def cut_off(*arguments, **options):
        raise OSError("no network")

    monkeypatch.setattr("socket.create_server", cut_off)
    monkeypatch.setattr("vlm_utils.plots.show", lambda figure, text: None)
    cells = nbformat.read("10_scaling_out.ipynb", as_version=4).cells
    names = {}
    with pytest.warns(UserWarning, match="has no captions") if write is write_dated_frames \
            else nullcontext():
        for cell in cells:
            if cell.cell_type == "code":
                exec(compile(cell.source, "10_scaling_out.ipynb", "exec"), names)
    printed = capsys.readouterr().out
    for said in ("each part within a fifth: True", "a new adapter changes nothing: True",
                 "equal logits: True", ", 0 lost", "nothing was encoded twice: True",
                 "processes can talk to each other here: False", "of the memory of a full step"):
        assert said in printed
    own = names["table"].name.startswith("mine")
    assert own == (write is not write_dated_frames)


# --- real images -------------------------------------------------------------------------------

def test_real_photos_are_split_and_asked_about(real_images, monkeypatch):
    monkeypatch.setenv("VLM_IMAGES", str(real_images / "photos"))
    train, test = (load_image_table(TINY, split) for split in ("train", "test"))
    assert (len(train), len(test)) == (20, 6)
    for table in (train, test):
        assert all(len(captions) == 5 for captions in table.truth.captions)
        assert {table.image(i).mode for i in range(len(table))} == {"RGB"}
    assert not {c for row in train.truth.captions for c in row} & {
        c for row in test.truth.captions for c in row}
    dataset = build_tasks(test, TINY.mixture | {"select 2": 20, "select 3": 20}, seed=0)
    assert {"select", "compare", "refer", "describe"} == {r.task for r in dataset.recipes}
    sample = dataset.of_task("select")[0]
    assert len(sample.images) == sample.prompt.count("<image>")


def test_real_frames_make_a_sequence(real_images, monkeypatch, processor):
    monkeypatch.setenv("VLM_IMAGES", str(real_images / "airport"))
    table = load_image_table(TINY, "test")
    assert len(table) == 16 and table.truth.sites == [tuple(range(16))]
    with Image.open(real_images / "airport" / "frame_10.png") as frame:
        assert np.array_equal(table.image(10), frame.convert("RGB"))
    dataset = build_tasks(table, {"sequence 8": 3, "select 2": 3}, seed=0)
    assert {(r.task, len(r.rows), r.answer) for r in dataset.recipes} == {("sequence", 8, None)}
    assert all(list(r.rows) == sorted(r.rows) for r in dataset.recipes)
    assert processor.pixel_values(dataset[0].images).shape == (8, 3, 64, 64)


def test_a_copy_of_real_photos_with_one_file_cut_short_is_refused(real_images, tmp_path):
    folder = shutil.copytree(real_images / "photos", tmp_path / "photos")
    victim = sorted(folder.glob("*.jpg"))[7]
    victim.write_bytes(victim.read_bytes()[:5000])
    with pytest.raises(ValueError, match=f"{victim.name}: is damaged or cut short"):
        load_image_folder(folder)
