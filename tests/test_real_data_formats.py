"""Public formats: TinyEarth written in each and read back, and each with its odd cases.

The odd rows are those of the real files, written here over tiles of TinyEarth.
"""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from vlm_utils.datasets import build_tasks, load_series_table
from vlm_utils.evaluation import blind, evaluate, predict, shuffled
from vlm_utils.real_data import (
    caption_scores,
    nlvr_scores,
    read_flickr8k,
    read_levir_cc,
    read_nlvr,
    read_nlvr2,
    read_spot_the_diff,
    read_teochatlas,
    teochat_scores,
    write_flickr8k,
    write_levir_cc,
    write_nlvr,
    write_nlvr2,
    write_spot_the_diff,
    write_teochatlas,
)
from vlm_utils.real_data.levir_cc import NO_CHANGE
from vlm_utils.real_data.records import Reading, Row
from vlm_utils.real_data.teochatlas import TASKS
from vlm_utils.time_series import as_teochat, dated
from vlm_utils.training import TrainingSettings, encode_table, start_run, train

SETTINGS = TrainingSettings(steps=2, batch_size=4, warmup_steps=0, window=1)
EVAL = "eval_TinyEarth.json"
WRITTEN = {
    "nlvr2": (lambda folder, table: write_nlvr2(folder, table, sentences=3), read_nlvr2),
    "nlvr": (lambda folder, table: write_nlvr(folder, table, sentences=1), read_nlvr),
    "spot_the_diff": (write_spot_the_diff, read_spot_the_diff),
    "levir_cc": (write_levir_cc, read_levir_cc),
    "flickr8k": (write_flickr8k, read_flickr8k),
    "teochatlas": (lambda folder, table: write_teochatlas(folder, table, samples=3),
                   lambda folder, **options: read_teochatlas(folder, EVAL, **options))}


@pytest.fixture(scope="module")
def table():
    return load_series_table("validation")


@pytest.fixture
def tile(table):
    """A function that saves tile `row` as a file."""
    def save(file, row=0, kind=None, size=None):
        file.parent.mkdir(parents=True, exist_ok=True)
        picture = table.image(row)
        (picture.resize(size) if size else picture).save(file, format=kind)
    return save


def counts(data) -> dict[str, int]:
    """The report as {what: count}, without the zeros."""
    return {row.what: row.count for row in data.report().itertuples(index=False) if row.count}


def named(data, what: str) -> str:
    return data.report(most=100).set_index("what")["named"][what]


def write(file, content):
    file.parent.mkdir(parents=True, exist_ok=True)
    lines = isinstance(content, list) and file.suffix == ".json" and file.name == "dev.json"
    file.write_text("".join(f"{json.dumps(row)}\n" for row in content) if lines
                    else json.dumps(content), encoding="utf-8")


# --- all formats ---------------------------------------------------------------------------------

@pytest.mark.parametrize("name", WRITTEN)
def test_what_is_read_goes_through_the_course_unchanged(name, table, tmp_path, model, processor):
    """Encoded, trained on, evaluated, and with the images taken away."""
    writes, reads = WRITTEN[name]
    writes(tmp_path, table)
    data = reads(tmp_path)
    samples = data.samples
    assert len(samples) == len(data.rows) == len(data) >= 10
    if name != "nlvr":                      # whose boxes are cut out of larger pictures
        assert all(row["image"]["bytes"] is None for row in samples.table.dataset)
    sample = samples.with_images(0)
    assert all(isinstance(image, Image.Image) for image in sample.images)
    assert sample.prompt.count("<image>") == len(sample.images) and sample.answer
    samples.table.image_features = encode_table(samples.table, model, processor)
    history = train(start_run(model, processor, samples, SETTINGS), tmp_path / "run")
    assert history["loss"].notna().all()
    assert evaluate(model, processor, blind(samples), max_new_tokens=2)["samples"].sum() \
        == len(data)
    lonely = samples if name == "teochatlas" else shuffled(samples)
    assert len(predict(model, processor, lonely, max_new_tokens=2)) == len(data)


@pytest.mark.parametrize("name", WRITTEN)
def test_every_row_of_a_file_is_accounted_for(name, table, tmp_path):
    writes, reads = WRITTEN[name]
    writes(tmp_path, table)
    lost = sorted(path for path in tmp_path.rglob("*.*g") if path.suffix in (".png", ".jpg"))[3]
    lost.unlink()
    damaged = sorted(path for path in tmp_path.rglob("*.*g") if path.suffix in (".png", ".jpg"))[-1]
    damaged.write_bytes(damaged.read_bytes()[:200])
    for options in ({}, {"most": 5}):
        data = reads(tmp_path, **options)
        found = counts(data)
        assert found["rows"] == found["samples"] + sum(
            found.get(what, 0) for what in ("merged", "left out", "dropped"))
        assert len(data.samples) == len(data.rows) == found["samples"] <= options.get("most", 1000)
        if not options:
            assert found["dropped"] >= 2 and found["images missing"] >= 1
            assert found["images unreadable"] >= 1
            assert lost.name in named(data, "images missing") and damaged.name in named(
                data, "images unreadable")


@pytest.mark.parametrize("name", WRITTEN)
def test_a_part_is_drawn_at_random_and_the_same_again(name, table, tmp_path):
    writes, reads = WRITTEN[name]
    writes(tmp_path, table)
    first, again, other = (reads(tmp_path, most=4, seed=seed) for seed in (0, 0, 1))
    assert list(first.rows["name"]) == list(again.rows["name"]) != list(other.rows["name"])
    assert len(first) == 4


@pytest.mark.parametrize("name", WRITTEN)
def test_the_same_world_is_written_twice(name, table, tmp_path):
    writes, _ = WRITTEN[name]
    for folder in ("one", "two"):
        writes(tmp_path / folder, table)
    files = [sorted(path for path in (tmp_path / folder).rglob("*") if path.is_file())
             for folder in ("one", "two")]
    assert len(files[0]) == len(files[1]) > 10
    assert all(a.read_bytes() == b.read_bytes() for a, b in zip(*files, strict=True))


@pytest.mark.parametrize("name", WRITTEN)
def test_nothing_of_a_real_data_set_is_replaced(name, table, tmp_path):
    """A trap: TinyEarth written into the folder of the download has the same file names."""
    writes, _ = WRITTEN[name]
    writes(tmp_path, table)
    writes(tmp_path, table)                     # the same again changes nothing
    for file in [path for path in tmp_path.rglob("*") if path.is_file()]:
        whole = file.read_bytes()
        file.write_bytes(b"the user's own\n")
        if file.name == "Flickr8k.token.txt":       # of all splits: what it held is kept
            writes(tmp_path, table)
            assert file.read_bytes().startswith(b"the user's own\n")
        else:
            with pytest.raises((FileExistsError, ValueError), match="is there|is not JSON"):
                writes(tmp_path, table)
            assert file.read_bytes() == b"the user's own\n"
        file.write_bytes(whole)


def test_other_records_of_a_split_are_not_replaced(table, tmp_path):
    """In these two, one file holds all splits: what it holds of others stays, of this one too."""
    for writes, file in ((write_levir_cc, "LevirCCcaptions.json"),
                         (write_flickr8k, "Flickr8k_text/Flickr8k.token.txt")):
        writes(tmp_path, table, "train")
        writes(tmp_path, table, "test")
        text = (tmp_path / file).read_text()
        assert "test_000000" in text and "train_000000" in text
        mine = text.replace(f"{table.truth.captions[0][0].rstrip('.')}", "My own words", 1) \
            if "token" in file else text.replace('"changeflag": 1', '"changeflag": 0', 1)
        assert mine != text
        (tmp_path / file).write_text(mine)
        with pytest.raises(FileExistsError, match="split 'train' is there and holds something"):
            writes(tmp_path, table, "train")
        assert (tmp_path / file).read_text() == mine


@pytest.mark.parametrize("name", [name for name in WRITTEN if name != "flickr8k"])
def test_only_a_table_with_scenes_can_be_written(name, caption_truth, table, tmp_path):
    from dataclasses import replace
    with pytest.raises(ValueError, match="its scenes are not known"):
        WRITTEN[name][0](tmp_path, replace(table, truth=caption_truth))


@pytest.mark.parametrize("name", WRITTEN)
def test_a_folder_without_the_files_is_told_what_is_missing(name, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"(holds none of .*|is not there).*: give the"):
        WRITTEN[name][1](tmp_path)


@pytest.mark.parametrize("name", WRITTEN)
def test_annotations_without_their_images_are_refused_in_words(name, table, tmp_path):
    writes, reads = WRITTEN[name]
    writes(tmp_path, table)
    for picture in [p for p in tmp_path.rglob("*") if p.suffix in (".png", ".jpg")]:
        picture.unlink()
    with pytest.raises(ValueError, match=r"none of its \d+ rows can be used .*there is no .*: is "
                                         "this the folder into which the images were unpacked"):
        reads(tmp_path)


def test_text_in_a_file_is_no_command(tile, tmp_path):
    """A sentence that holds <image> must not become a placeholder."""
    for k in (0, 1):
        tile(tmp_path / "images" / f"dev-0-0-img{k}.png", k)
    write(tmp_path / "dev.json", [{"identifier": "dev-0-0-0", "label": "True",
                                   "sentence": "The word <image> is in <image_9>."}])
    sample = read_nlvr2(tmp_path).samples[0]
    assert sample.prompt.count("<image>") == 2 and "<image_9>" not in sample.prompt


def test_a_note_must_be_of_a_known_kind():
    with pytest.raises(ValueError, match="'lost' is not one of"):
        Reading("x").note("lost", "a", "b", "c")
    with pytest.raises(ValueError, match="most is a whole number of at least 1, not 0"):
        Reading("x").finish(most=0)


def test_a_report_names_the_first_and_counts_the_rest(tile, tmp_path):
    tile(tmp_path / "there.png")
    reading = Reading("mine")
    reading.rows = [Row([tmp_path / f"{name}.png"], "<image>What?", "A.", "own", name, f"row {i}")
                    for i, name in enumerate(["there", "a", "b", "c"])]
    reading.read = 4
    data = reading.finish()
    dropped = data.report(most=1).set_index("what").loc["dropped"]
    assert dropped["count"] == 3
    assert dropped["named"] == "a (row 1): a.png is missing; and 2 more"
    assert len(data.notes) == 6 and data.rows["name"].tolist() == ["there"]


# --- NLVR2 ---------------------------------------------------------------------------------------

def test_nlvr2_keeps_every_truth(table, tmp_path):
    write_nlvr2(tmp_path, table, sentences=5)
    data = read_nlvr2(tmp_path)
    assert len(data) == 20 and data.samples.recipes[0].num_images == 2
    assert sorted(r.answer for r in data.samples.recipes) == ["False"] * 10 + ["True"] * 10
    assert data.rows.groupby("sentence").size().tolist() == [4] * 5
    for _, group in data.rows.groupby("sentence"):
        assert {data.samples.recipes[i].answer for i in group.index} == {"True", "False"}
    # What is said of the images is true of the tiles that were written.
    tiles = {table.image(row).tobytes(): scene for row, scene in enumerate(table.truth.scenes)}
    for i in range(len(data)):
        recipe, images = data.samples.recipes[i], data.samples.with_images(i).images
        if "Both images show" in recipe.prompt and i > 0:       # picture 0 is a JPEG
            covers = [tiles[image.tobytes()].cover for image in images]
            said = recipe.prompt.split("show ")[1]
            same = len(set(covers)) == 1 and covers[0][:5] in said.replace("open ", "")
            assert str(same) == recipe.answer, (covers, recipe)


def test_nlvr2_with_its_odd_rows(tile, tmp_path):
    folder = tmp_path / "images" / "train" / "7"        # training pictures lie one level deeper
    for pair in range(4):
        for k in (0, 1):
            tile(folder / f"dev-3-{pair}-img{k}.png", 2 * pair + k,
                 {(0, 0): "JPEG", (1, 1): "WEBP"}.get((pair, k)))
    (folder / "dev-3-3-img1.png").unlink()
    rows = [{"identifier": "dev-3-0-0", "sentence": "Both are green .", "label": "True",
             "validation": "{'0': 'True', '1': 'False', u'2': 'True'}"},
            {"identifier": "dev-3-1-0", "sentence": "Both are green .", "label": "False",
             "validation": {"0": "False"}},
            {"identifier": "dev-3-2-0", "sentence": "Both are green .", "label": "false",
             "validation": "{'0': "},
            {"identifier": "dev-3-3-0", "sentence": "Both are green .", "label": "True"},
            {"identifier": "dev-3-0-1", "sentence": "  ", "label": "True"},
            {"identifier": "dev-3-1-1", "sentence": "There is a town.", "label": True}]
    write(tmp_path / "data" / "dev.json", rows)
    data = read_nlvr2(tmp_path)
    assert counts(data) == {"rows": 6, "images missing": 1, "empty": 1, "mended": 3, "dropped": 2,
                            "samples": 4}
    assert [r.answer for r in data.samples.recipes] == ["True", "False", "False", "True"]
    assert data.samples.recipes[0].prompt == "<image><image>Both are green. True or false?"
    assert data.rows["sentence"].tolist() == ["dev-3-0"] * 3 + ["dev-3-1"]
    assert data.rows["agreement"].fillna(-1).tolist() == pytest.approx([2 / 3, 1, -1, -1])
    mended = named(data, "mended")
    assert "dev-3-0-img0.png (dev.json line 1): is a JPEG, whatever its name says" in mended
    assert "dev-3-1-img1.png (dev.json line 2): is a WEBP" in mended
    assert "validation is \"{'0': \": not used" in mended
    assert "dev-3-3-0 (dev.json line 4): dev-3-3-img1.png is missing" in named(data, "dropped")


@pytest.mark.parametrize(("change", "says"), [
    ({"label": "maybe"}, "line 2: label is 'maybe', neither true nor false"),
    ({"label": None}, "line 2: label is None, neither"),
    ({"identifier": "dev-1"}, "line 2: identifier is 'dev-1', not split-set-pair-sentence"),
    ({"sentence": 3}, "line 2: sentence is 3, not a str")])
def test_a_wrong_line_of_nlvr2_is_named(change, says, tile, tmp_path):
    right = {"identifier": "dev-0-0-0", "sentence": "Both.", "label": "True"}
    write(tmp_path / "dev.json", [right, right | change])
    with pytest.raises(ValueError, match=f"dev.json {says}"):
        read_nlvr2(tmp_path)


def test_lines_that_are_no_records_are_named(tmp_path):
    (tmp_path / "dev.json").write_text('{"identifier": "dev-0-0-0"}\n')
    with pytest.raises(ValueError, match="dev.json line 1: lacks 'sentence' .found: identifier"):
        read_nlvr2(tmp_path)
    (tmp_path / "dev.json").write_text("\n[1]\n")
    with pytest.raises(ValueError, match="dev.json line 2: is a list, not a record"):
        read_nlvr2(tmp_path)
    (tmp_path / "dev.json").write_text('{"identifier": \n')
    with pytest.raises(ValueError, match="dev.json line 1: is not JSON"):
        read_nlvr2(tmp_path)


# --- NLVR ----------------------------------------------------------------------------------------

def test_nlvr_keeps_every_truth_and_cuts_the_boxes(table, tmp_path):
    write_nlvr(tmp_path, table, sentences=3)
    data = read_nlvr(tmp_path)
    assert len(data) == 3 * 2 * 6 and counts(data) == {"rows": 36, "samples": 36}
    assert {r.num_images for r in data.samples.recipes} == {3}
    assert data.rows.groupby("sentence").size().tolist() == [12] * 3
    # All six orders hold the same three boxes, and the first picture those that were pasted.
    first = [tuple(image.tobytes() for image in data.samples.with_images(k).images)
             for k in range(6)]
    assert len(set(first)) == 6 and len({frozenset(boxes) for boxes in first}) == 1
    tiles = {table.image(row).resize((100, 100)).tobytes() for row in range(len(table))}
    assert set(first[0]) <= tiles
    assert len(read_nlvr(tmp_path, orders=2)) == 12


def test_nlvr_with_its_odd_rows(tile, tmp_path):
    """As the real files: labels in small letters, directories as texts, and one bad picture."""
    folder = tmp_path / "dev" / "images" / "5"
    for identifier, orders in (("12-0", 6), ("12-1", 6), ("40-3", 5)):
        for k in range(orders):
            tile(folder / f"dev-{identifier}-{k}.png", k, size=(400, 100))
    tile(folder / "dev-12-1-4.png", size=(300, 100))
    (folder / "dev-12-1-5.png").write_bytes(b"no picture")
    write(tmp_path / "dev" / "dev.json", [
        {"identifier": name, "sentence": text, "label": label, "directory": "5",
         "evals": {"r0": "true"}, "structured_rep": [[], [], []]}
        for name, text, label in (("12-0", "There is a box with 2 items", "true"),
                                  ("12-1", "There is a box with 2 items", "false"),
                                  ("40-3", "ll 3 colors  touch the wall.", "false"),
                                  ("41-0", " ", "true"))])
    data = read_nlvr(tmp_path)
    assert counts(data) == {"rows": 24, "images missing": 1, "images unreadable": 1, "empty": 1,
                            "dropped": 9, "samples": 15}
    assert "dev-12-1-4.png is 300 x 100, not 400 x 100" in named(data, "dropped")
    assert "dev-40-3-5.png" in named(data, "images missing")
    assert data.samples.recipes[-1].prompt == \
        "<image><image><image>ll 3 colors touch the wall. True or false?"
    assert data.samples.recipes[0].answer == "True" and set(data.rows["sentence"]) == {"12", "40"}
    with pytest.raises(ValueError, match="orders is 1 to 6, not 7"):
        read_nlvr(tmp_path, orders=7)


# --- Spot-the-Diff -------------------------------------------------------------------------------

def test_spot_the_diff_keeps_every_change(table, tmp_path):
    write_spot_the_diff(tmp_path, table, "val", pairs=6)
    data = read_spot_the_diff(tmp_path, "validation")
    assert counts(data) == {"rows": 9, "empty": 1, "merged": 3, "samples": 6}
    assert data.rows["references"].map(len).tolist() == [2, 1, 1, 2, 1, 1]
    tiles = {table.image(row).tobytes(): scene for row, scene in enumerate(table.truth.scenes)}
    from vlm_utils.tiny_earth import describe_change
    for i, recipe in enumerate(data.samples.recipes):
        before, after = (tiles[image.tobytes()] for image in data.samples.with_images(i).images)
        said = describe_change(before, after).lower()
        assert recipe.answer == said.replace("nothing changed", "there is no difference")
    every = read_spot_the_diff(tmp_path, "val", every_reference=True)
    assert len(every) == 8 and len(every.samples.table) == len(data.samples.table)


def test_spot_the_diff_with_its_odd_rows(tile, tmp_path):
    for name in ("7", "8", "9", "10"):
        for suffix in ("", "_2"):
            tile(tmp_path / "resized_images" / f"{name}{suffix}.png", int(name))
    (tmp_path / "resized_images" / "10_2.png").unlink()
    write(tmp_path / "data" / "annotations" / "train.json", [
        {"img_id": "7", "sentences": ["The car is gone .", " a man  has moved", ""]},
        {"img_id": "8", "sentences": [""]}, {"img_id": "9", "sentences": []},
        {"img_id": "10", "sentences": ["a person left"]},
        {"img_id": "7", "sentences": ["no car any more"]},
        {"img_id": "8", "sentences": ["there is no difference"]},
        {"img_id": "7", "sentences": ["  "]}])
    data = read_spot_the_diff(tmp_path)
    assert counts(data) == {"rows": 7, "images missing": 1, "empty": 4, "merged": 3, "dropped": 2,
                            "samples": 2}
    assert data.rows["references"].tolist() == [
        ["The car is gone. a man has moved.", "no car any more."], ["there is no difference."]]
    assert data.samples.recipes[0].prompt == "<image><image>What changed?"
    assert "9 (train.json row 2): holds no sentence" in named(data, "empty")
    assert "7 (train.json row 4): train.json row 0 is of the same pair" in named(data, "merged")
    assert "9 (train.json row 2): no sentence was written" in named(data, "dropped")


@pytest.mark.parametrize(("row", "says"), [
    ({"sentences": ["a"]}, "row 1: lacks an img_id"), ({"img_id": "1"}, "row 1: lacks 'sentences'"),
    ({"img_id": "1", "sentences": "a"}, "row 1: sentences is 'a', not a list"),
    ({"img_id": "1", "sentences": [3]}, "row 1: a sentence is 3, not a text"),
    (7, "row 1: is a int")])
def test_a_wrong_row_of_spot_the_diff_is_named(row, says, tmp_path):
    write(tmp_path / "train.json", [{"img_id": "0", "sentences": ["a"]}, row])
    with pytest.raises(ValueError, match=f"train.json {says}"):
        read_spot_the_diff(tmp_path)
    write(tmp_path / "train.json", {"0": row})
    with pytest.raises(ValueError, match="train.json: holds a dict, not a list of records"):
        read_spot_the_diff(tmp_path)


# --- LEVIR-CC ------------------------------------------------------------------------------------

def test_levir_cc_keeps_every_change_and_other_splits(table, tmp_path):
    write_levir_cc(tmp_path, table, "train", pairs=7)
    write_levir_cc(tmp_path, table, "test", pairs=10, seed=1)
    data = read_levir_cc(tmp_path, "test")
    assert counts(data) == {"rows": 17, "left out": 7, "samples": 10}
    assert data.samples.with_images(0).images[0].size == (256, 256)
    still = [i for i, changed in enumerate(data.rows["changed"]) if not changed]
    assert still and all([text.rstrip(".") for text in data.rows["references"][i]]
                         == list(NO_CHANGE) for i in still)
    assert all(len(texts) == 5 for texts in data.rows["references"])
    assert len(read_levir_cc(tmp_path, "train", every_reference=True)) == 35


def test_levir_cc_with_its_odd_rows(tile, tmp_path):
    for name in ("a.png", "b.png", "c.png"):
        for k, letter in enumerate("AB"):
            tile(tmp_path / "images" / "test" / letter / name, k)
    (tmp_path / "images" / "test" / "B" / "b.png").unlink()

    def row(name, raws, split="test", flag=1):
        return {"filename": name, "filepath": split, "split": split, "changeflag": flag,
                "imgid": 0, "sentences": [{"tokens": raw.split(), "raw": raw} for raw in raws]}

    write(tmp_path / "LevirCCcaptions.json", {"images": [
        row("a.png", [" two  houses appear at the forest ,  beside a road .", "  ", ""]),
        row("b.png", [" a road is built ."]), row("c.png", [" ", ""]),
        row("c.png", [f" {text} ." for text in NO_CHANGE], flag=0), row("z.png", [" x ."], "val"),
        row("z.png", [" x ."], "train")]})
    data = read_levir_cc(tmp_path, "test")
    assert counts(data) == {"rows": 6, "images missing": 1, "empty": 4, "left out": 2,
                            "dropped": 2, "samples": 2}
    assert data.samples.recipes[0].answer == \
        "two houses appear at the forest, beside a road."
    assert data.rows["changed"].tolist() == [True, False]
    assert data.rows["references"][0] == [data.samples.recipes[0].answer]
    assert data.rows["references"][1][0] == "the scene is the same as before."


def test_a_wrong_row_of_levir_cc_is_named(tmp_path):
    write(tmp_path / "LevirCCcaptions.json", {"images": [
        {"split": "test", "filename": "a.png", "changeflag": 1, "sentences": [{"tokens": ["a"]}]}]})
    with pytest.raises(ValueError, match="LevirCCcaptions.json row 0: a sentence is .*, without a "
                                         "text `raw`"):
        read_levir_cc(tmp_path)
    write(tmp_path / "LevirCCcaptions.json", [])
    with pytest.raises(ValueError, match="is not an object with the key 'images'"):
        read_levir_cc(tmp_path)


# --- Flickr8k ------------------------------------------------------------------------------------

def test_flickr8k_keeps_captions_and_makes_selections(table, tmp_path):
    write_flickr8k(tmp_path, table, "train", images=8)
    write_flickr8k(tmp_path, table, "test", images=6)
    data = read_flickr8k(tmp_path, "test")
    assert counts(data) == {"rows": 1 + 8 * 5 + 6 * 5, "images missing": 1, "merged": 24,
                            "left out": 41, "samples": 6}
    assert [set(texts) for texts in data.samples.table.truth.captions] == \
        [set(texts) for texts in table.truth.captions[:6]]
    difference = np.abs(np.asarray(data.samples.table.image(0), float)
                        - np.asarray(table.image(0), float))
    assert difference.mean() < 8                    # JPEG
    assert len(build_tasks(data.samples.table, {"select 2": 5}, 0)) == 5
    assert len(read_flickr8k(tmp_path, "test", every_reference=True)) == 30


def test_flickr8k_with_its_odd_rows(tile, tmp_path):
    for name in ("a.jpg", "b.jpg", "c.jpg"):
        tile(tmp_path / "Flicker8k_Dataset" / name)
    (tmp_path / "Flickr8k.token.txt").write_text(
        "a.jpg#0\tA dog runs .\na.jpg#1\t  A brown dog , in grass . \nb.jpg#0\t \n"
        "b.jpg#1\tA cat .\n"
        "2258277193_586949ec62.jpg.1#0\tA man .\nc.jpg#0\tA tree .\nd.jpg#0\tGone .\n",
        encoding="utf-8")
    (tmp_path / "Flickr_8k.devImages.txt").write_text("a.jpg\nb.jpg\nd.jpg\ne.jpg\n\n")
    data = read_flickr8k(tmp_path, "validation")
    assert counts(data) == {"rows": 7, "images missing": 2, "empty": 2, "merged": 1, "left out": 2,
                            "dropped": 2, "samples": 2}
    assert data.rows["references"].tolist() == [["A dog runs.", "A brown dog, in grass."],
                                                ["A cat."]]
    assert "2258277193_586949ec62.jpg.1 (Flickr8k.token.txt line 5): a caption names it" in named(
        data, "images missing")
    assert "e.jpg (Flickr_8k.devImages.txt): has no caption" in named(data, "empty")
    assert data.samples.recipes[0].task == "describe"


@pytest.mark.parametrize("line", ["a.jpg\tA dog .", "a.jpg#0 A dog .", "a.jpg#x\tA dog ."])
def test_a_wrong_line_of_flickr8k_is_named(line, tmp_path):
    (tmp_path / "Flickr8k.token.txt").write_text(f"b.jpg#0\tA cat .\n{line}\n")
    (tmp_path / "Flickr_8k.testImages.txt").write_text("a.jpg\n")
    with pytest.raises(ValueError, match="Flickr8k.token.txt line 2: is .*, not name.jpg#0"):
        read_flickr8k(tmp_path)


def test_only_a_table_with_captions_becomes_flickr8k(table, tmp_path):
    from dataclasses import replace

    from vlm_utils.datasets import Truth
    bare = Truth([None] * 2, [[], []], [(0,), (1,)])
    with pytest.raises(ValueError, match="its captions are not known"):
        write_flickr8k(tmp_path, replace(table, truth=bare))


# --- TEOChatlas ----------------------------------------------------------------------------------

def test_teochatlas_gives_back_the_questions_that_were_written(table, tmp_path):
    write_teochatlas(tmp_path, table, samples=6)
    data = read_teochatlas(tmp_path, EVAL)
    dataset = build_tasks(table, {"locate 1": 6, "ask 1": 6, "locate_change 2": 6, "compare 2": 6,
                                  "when 4": 6}, 0)
    assert len(data) == 30
    for i, (found, wanted) in enumerate(zip(data.samples.recipes, dataset.recipes, strict=True)):
        text = wanted.prompt.replace("<image>", "")
        assert (found.prompt, found.answer, found.task) == (
            "<image>" * wanted.num_images + text, wanted.answer, TASKS[wanted.task])
        pictures = data.samples.with_images(i).images
        order = wanted.rows
        stamps = [table.truth.dates[row] for row in order]
        if all(stamps) and stamps == sorted(stamps):
            assert [data.samples.table.truth.dates[row] for row in found.rows] == stamps
        assert [p.tobytes() for p in pictures] == [table.image(row).tobytes() for row in order]
    assert any(text == "<image_2>" for text in (r.answer for r in data.samples.recipes))
    prompt = as_teochat(data.samples).recipes[0].prompt
    assert prompt.startswith("Image") and "<image_" not in prompt
    boxes = data.rows[[task.startswith(("spatial", "change_detection"))
                       for task in (r.task for r in data.samples.recipes)]]
    assert boxes["polygons"].map(lambda polygons: isinstance(polygons, list)).all()


def entry(name, video, question, answer, task="question_answering", **more):
    return {"id": name, "video": video, "task": task, "dataset": "xBD",
            "conversations": [{"from": "human", "value": f"<video>\n{question}"},
                              {"from": "gpt", "value": answer}]} | more


def test_teochatlas_with_its_odd_rows(tile, tmp_path):
    for k in range(20):
        tile(tmp_path / "xbd" / f"{k}.png", k)
    files = [f"xbd/{k}.png" for k in range(20)]
    square = "POLYGON ((0 0, 0 128, 128 128, 128 0, 0 0), (8 8, 8 16, 16 16, 8 8))"
    two = "MULTIPOLYGON (((0 0, 0 9, 9 9, 0 0)), ((20.5 20, 20 30, 30 30, 20.5 20)))"
    box = "change_detection_localization"
    write(tmp_path / "eval.json", [
        entry("late", [files[1], files[0]], "What is in image 2?", "A lake in image 1.",
              timestamp=["2019-05-01T10:00:00Z", "2017-01-01T10:00:00Z"]),
        entry("same twice", [files[2], files[2]], "What changed?", "Nothing.",
              timestamp=["2019", "2019"]),
        entry("long", files, "Have any buildings been built?", "Yes"),
        entry("long, by number", files, "What is in image 20?", "A road"),
        entry("beyond", files[:2], "What is in Image 3?", "A road"),
        entry("gone", ["xbd/none.png", files[0]], "What?", "A road"),
        entry("shapes", files[:2], "Identify all changed buildings.", "[0, 0, 50, 50]", box,
              polygon=[square, two]),
        entry("no shape", files[:2], "Identify all changed buildings.", "None", box, polygon=[""]),
        entry("one text", files[:1], "Where?", "[0, 0, 50, 50]", box, polygon=square),
        entry("silent", files[:1], "Where?", " "),
        entry("odd stamps", files[:2], "What?", "x", timestamp=["2017-01-01", "summer"]),
        entry("two dates", files[2:3], "What?", "x", timestamp=["2020-03"]),
        {"id": "talk", "video": files[:1], "task": "region_based_question_answering",
         "conversations": [{"from": "human", "value": "<video>\nWhat?"},
                           {"from": "gpt", "value": "A lake"},
                           {"from": "human", "value": "How large?"},
                           {"from": "gpt", "value": "Small"}]}])
    data = read_teochatlas(tmp_path, "eval.json")
    assert counts(data) == {"rows": 13, "images missing": 1, "empty": 1, "mended": 6, "dropped": 4,
                            "samples": 10}
    assert "2.png (TEOChatlas eval): has the dates 2019, 2020-03: none is used" in named(
        data, "mended")
    by_name = dict(zip(data.rows["name"], data.samples.recipes, strict=True))
    late = by_name["late"]
    assert late.prompt == "<image><image>What is in <image_2>?"
    assert late.answer == "A lake in <image_1>."
    table = data.samples.table
    assert [table.files[row] for row in late.rows] == ["0.png", "1.png"]    # by time
    assert "2017-01: <image> 2019-05: <image>" in dated(
        type(data.samples)(table, [late])).recipes[0].prompt
    assert len(set(by_name["same twice"].rows)) == 1
    kept = [table.files[row] for row in by_name["long"].rows]
    assert len(kept) == 16 and kept[0] == "0.png" and kept[-1] == "19.png"
    polygons = dict(zip(data.rows["name"], data.rows["polygons"], strict=True))
    assert [len(p) for p in polygons["shapes"]] == [5, 4, 4]                # the hole is left out
    assert polygons["shapes"][2][0] == (20.5, 20.0)
    assert polygons["no shape"] == [] and polygons["late"] is None
    assert len(polygons["one text"]) == 1
    assert list(data.rows["name"]).count("talk") == 2
    for name, why in (("long, by number", "names image 20, and of 20 images only 16 are kept"),
                      ("beyond", "names image 3 of 2"), ("gone", "none.png is missing")):
        assert f"{name} (eval.json row " in named(data, "dropped") and why in named(data, "dropped")
    part = read_teochatlas(tmp_path, "eval.json", tasks=[box])
    assert counts(part) == {"rows": 13, "left out": 10, "samples": 3}


@pytest.mark.parametrize(("change", "says"), [
    ({"video": "a.png"}, "video is 'a.png', not a list"),
    ({"video": []}, "video is .., not a list"),
    ({"timestamp": ["2019"]}, "has 2 images and 1 timestamps"),
    ({"conversations": [{"from": "gpt", "value": "a"}]}, "conversations are by .'gpt'., not by"),
    ({"conversations": [{"from": "human", "value": 3}, {"from": "gpt", "value": "a"}]},
     "a turn of the conversation is not a text"),
    ({"polygon": ["CIRCLE (1)"]}, "a polygon is 'CIRCLE .1.', not POLYGON"),
    ({"polygon": ["POLYGON ((1 2, 3))"]}, "the ring '1 2, 3' of a polygon is not pairs"),
    ({"polygon": ["POLYGON ((1 2, 3 4))"]}, "the ring '1 2, 3 4' of a polygon has fewer than 3"),
    ({"polygon": ["POLYGON 3"]}, "the polygon 'POLYGON 3' has no ring"),
    ({"polygon": [3]}, "a polygon is 3, not a WKT text"), ({"task": None}, "task is None")])
def test_a_wrong_row_of_teochatlas_is_named(change, says, tile, tmp_path):
    tile(tmp_path / "0.png")
    right = entry("right", ["0.png", "0.png"], "What?", "x")
    write(tmp_path / "eval.json", [right, right | change])
    with pytest.raises(ValueError, match=f"eval.json row 1: {says}"):
        read_teochatlas(tmp_path, "eval.json")


# --- the scores take what predict returns --------------------------------------------------------

def test_each_format_has_its_score(table, tmp_path, model, processor):
    scores = {"nlvr2": nlvr_scores, "nlvr": nlvr_scores, "spot_the_diff": caption_scores,
              "levir_cc": caption_scores, "flickr8k": caption_scores, "teochatlas": teochat_scores}
    for name, (writes, reads) in WRITTEN.items():
        writes(tmp_path / name, table)
        data = reads(tmp_path / name)
        predictions = predict(model, processor, data.samples, max_new_tokens=3)
        perfect = predictions.assign(prediction=predictions["answer"])
        score, best = scores[name](data, predictions), scores[name](data, perfect)
        if name == "teochatlas":
            assert (best["accuracy"].fillna(1) == 1).all()
            assert (best["pixel_f1"].fillna(1) > 0.9).all()
            assert score["samples"].sum() == len(data)
        elif name.startswith("nlvr"):
            assert best["accuracy"] == best["consistency"] == 1 and score["unreadable"] > 0
        else:
            assert best["rouge_l"] == 1 and best["bleu_4"] > 99 and score["bleu_4"] < 5
        with pytest.raises(ValueError, match=r"predictions for \d+ samples"):
            scores[name](data, predictions[:-1])
        shutil.rmtree(tmp_path / name)
