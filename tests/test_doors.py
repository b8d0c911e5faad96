"""Every door of the course, tried by a user who is in a hurry: what comes in is read, or refused in
a sentence that names it; nothing is lost or changed without a word."""

import json
import re
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from datasets import Dataset, DatasetDict, Features, List, Value
from datasets import Image as ImageFeature
from PIL import ExifTags, Image
from transformers import AutoProcessor

from vlm_utils.__main__ import main
from vlm_utils.answering import answer_sample
from vlm_utils.course.cells import choose
from vlm_utils.datasets import (
    EncodedSamples,
    Sample,
    Truth,
    compare,
    encode_samples,
    load_image_table,
    load_series_table,
    own_samples,
)
from vlm_utils.profiles import REPOSITORY, get_profile
from vlm_utils.real_data import (
    bleu_4,
    caption_scores,
    cider_d,
    class_f1,
    draw,
    near_duplicates,
    nlvr_scores,
    parse_boxes,
    parse_polygons,
    perceptual_hash,
    read_flickr8k,
    read_levir_cc,
    read_nlvr,
    read_nlvr2,
    read_spot_the_diff,
    read_teochatlas,
    rouge_l,
    teochat_scores,
    write_flickr8k,
    write_levir_cc,
    write_nlvr,
    write_nlvr2,
    write_spot_the_diff,
    write_teochatlas,
)
from vlm_utils.real_data.caption_scores import words
from vlm_utils.sources.images import open_image
from vlm_utils.sources.picture_folders import list_pictures, load_image_folder

GIF = {"save_all": True, "duration": 100}


@pytest.fixture(scope="module")
def series():
    return load_series_table("validation")


@pytest.fixture
def save(picture):
    """A function that writes pictures of noise, each another one: save(folder / "a.png", ...)."""
    def write(*files: Path) -> None:
        for seed, file in enumerate(files):
            file.parent.mkdir(parents=True, exist_ok=True)
            picture(seed, (24, 20)).save(file)
    return write


def counts(data) -> dict[str, int]:
    return {row.what: row.count for row in data.report().itertuples(index=False) if row.count}


# --- the files of public formats -----------------------------------------------------------------

NLVR2 = {"identifier": "dev-1-0-0", "sentence": "Both show a cat.", "label": "True"}


@pytest.fixture
def nlvr2(tmp_path, save):
    """A folder of two pictures, whose dev.json the test writes."""
    save(tmp_path / "images" / "dev-1-0-img0.png", tmp_path / "images" / "dev-1-0-img1.png")
    return tmp_path


@pytest.mark.parametrize("end", ["\r", "\r\n", "\n"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_file_is_read_whichever_system_wrote_it(nlvr2, end, encoding):
    lines = [json.dumps(NLVR2), "", json.dumps(NLVR2 | {"sentence": "Caf\u00e9 \u2028 or not."})]
    (nlvr2 / "dev.json").write_bytes((end.join(lines) + end).encode(encoding))
    data = read_nlvr2(nlvr2)
    assert counts(data) == {"rows": 2, "samples": 2}
    assert "Caf\u00e9" in data.samples.recipes[1].prompt
    assert data.rows["where"][1].endswith("line 3")


@pytest.mark.parametrize(("name", "content", "read", "says"), [
    ("dev.json", json.dumps(NLVR2).encode() + b'\n{"sentence": "caf\xe9"}', read_nlvr2, "line 2"),
    ("train.json", b'[\n{"img_id": "1", "sentences": ["caf\xe9"]}]', read_spot_the_diff, "line 2"),
    ("LevirCCcaptions.json", b'{"images":\n\n"\xe9"}', read_levir_cc, "line 3"),
    ("e.json", b'["\xe9"]', lambda folder: read_teochatlas(folder, "e.json"), "line 1"),
    ("dev/dev.json", b'{"identifier": "\xe9"}', read_nlvr, "line 1"),
    ("Flickr8k.token.txt", b"a.jpg#0\tA dog.\na.jpg#1\tcaf\xe9\n", read_flickr8k, "line 2"),
    ("Flickr_8k.testImages.txt", b"a.jpg\nb\xe9.jpg\n", read_flickr8k, "line 2")])
def test_another_encoding_is_named_with_file_and_line(tmp_path, name, content, read, says):
    (tmp_path / "dev").mkdir()
    for other in ("Flickr8k.token.txt", "Flickr_8k.testImages.txt"):
        (tmp_path / other).write_text("a.jpg#0\tA dog.\n")
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=f"{Path(name).name}, {says}: is not UTF-8 .byte 0xe9."):
        read(tmp_path)


@pytest.mark.parametrize(("name", "read"), [
    ("dev.json", read_nlvr2), ("train.json", read_spot_the_diff),
    ("e.json", lambda folder: read_teochatlas(folder, "e.json"))])
def test_lists_in_lists_without_end_are_no_json(tmp_path, name, read):
    (tmp_path / name).write_text("[" * 100_000)
    with pytest.raises(ValueError, match=f"{name}.*: is not JSON"):
        read(tmp_path)


def test_a_byte_order_mark_in_the_list_of_a_split_hides_no_picture(tmp_path, save):
    save(tmp_path / "images" / "a.jpg", tmp_path / "images" / "b.jpg")
    (tmp_path / "Flickr8k.token.txt").write_text("a.jpg#0\tA dog .\nb.jpg#0\tA cat .\n")
    (tmp_path / "Flickr_8k.testImages.txt").write_text("a.jpg\nb.jpg\n", encoding="utf-8-sig")
    assert counts(read_flickr8k(tmp_path)) == {"rows": 2, "samples": 2}


@pytest.mark.parametrize("name", ["x" * 300, "a\0b"])
def test_a_name_that_no_file_can_have_is_a_missing_image(nlvr2, save, name):
    """A trap: Path.is_file raises for a name that is too long."""
    row = NLVR2 | {"identifier": f"dev-{name}-0-0"}
    (nlvr2 / "dev.json").write_text(f"{json.dumps(NLVR2)}\n{json.dumps(row)}\n")
    assert counts(read_nlvr2(nlvr2)) == {"rows": 2, "images missing": 2, "dropped": 1, "samples": 1}
    save(*(nlvr2 / "p" / f"{k}.jpg" for k in (0, 1)))
    video = teochat(video=["p/0.jpg", f"{name}.jpg"])
    (nlvr2 / "e.json").write_text(json.dumps([teochat(), video]))
    assert counts(read_teochatlas(nlvr2, "e.json")) == {
        "rows": 2, "images missing": 1, "dropped": 1, "samples": 1}
    save(nlvr2 / "images" / "a.jpg")
    (nlvr2 / "Flickr8k.token.txt").write_text(f"a.jpg#0\tA dog .\n{name}.jpg#0\tA cat .\n")
    (nlvr2 / "Flickr_8k.testImages.txt").write_text("a.jpg\n")
    assert counts(read_flickr8k(nlvr2)) == {
        "rows": 2, "images missing": 1, "left out": 1, "samples": 1}
    save(*(nlvr2 / "dev" / "images" / f"dev-1-0-{k}.png" for k in range(6)))
    for k in range(6):
        Image.new("RGB", (400, 100)).save(nlvr2 / "dev" / "images" / f"dev-1-0-{k}.png")
    rows = [{"identifier": f"{each}-0", "sentence": "A box.", "label": "true"}
            for each in ("1", name)]
    (nlvr2 / "dev" / "dev.json").write_text("\n".join(map(json.dumps, rows)))
    assert counts(read_nlvr(nlvr2)) == {"rows": 12, "images missing": 6, "dropped": 6, "samples": 6}


def test_a_picture_too_large_for_pillow_is_reported(nlvr2, save, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 200)         # of the 480 that each has
    save(nlvr2 / "images" / "dev-2-0-img0.png")
    Image.new("RGB", (9, 9)).save(nlvr2 / "images" / "dev-1-0-img0.png")
    Image.new("RGB", (8, 9)).save(nlvr2 / "images" / "dev-1-0-img1.png")
    Image.new("RGB", (8, 8)).save(nlvr2 / "images" / "dev-2-0-img1.png")
    rows = [NLVR2, NLVR2 | {"identifier": "dev-2-0-0"}]
    (nlvr2 / "dev.json").write_text("\n".join(map(json.dumps, rows)))
    assert counts(read_nlvr2(nlvr2)) == {
        "rows": 2, "images unreadable": 1, "dropped": 1, "samples": 1}


@pytest.mark.parametrize("most", [0, -1, 2.5, "3"])
def test_a_part_is_a_whole_number_of_rows(nlvr2, most):
    """A trap: a part of -1 was all but one."""
    (nlvr2 / "dev.json").write_text(json.dumps(NLVR2))
    (nlvr2 / "dev").mkdir()
    (nlvr2 / "dev" / "dev.json").write_text(
        json.dumps({"identifier": "1-0", "sentence": "A box.", "label": "true"}))
    for read in (read_nlvr2, read_nlvr):
        with pytest.raises(ValueError, match=f"most is a whole number of at least 1, not {most!r}"):
            read(nlvr2, most=most)


def test_a_flag_of_levir_cc_is_0_or_1(tmp_path):
    row = {"filename": "a.png", "split": "test", "changeflag": 2, "sentences": [{"raw": "A road."}]}
    (tmp_path / "LevirCCcaptions.json").write_text(json.dumps({"images": [row]}))
    with pytest.raises(ValueError, match="row 0: changeflag is 2, neither 0 nor 1"):
        read_levir_cc(tmp_path)


def teochat(**changes) -> dict:
    return {"id": "x", "video": ["p/0.jpg", "p/1.jpg"], "task": "question_answering",
            "conversations": [{"from": "human", "value": "<video>\nWhat?"},
                              {"from": "gpt", "value": "Yes"}]} | changes


@pytest.fixture
def teochatlas(tmp_path, save):
    """A function that writes e.json beside two pictures, and reads it."""
    save(*(tmp_path / "p" / f"{k}.jpg" for k in (0, 1)))

    def read(*rows, **options):
        (tmp_path / "e.json").write_text(json.dumps(rows))
        return read_teochatlas(tmp_path, "e.json", **options)
    return read


@pytest.mark.parametrize(("change", "says"), [
    ({"timestamp": 2018}, "timestamp is 2018, not a list"),
    ({"timestamp": {"0": "2018"}}, "timestamp is .'0': '2018'., not a list"),
    # Ten letters for ten images: each was read as a date of its own.
    ({"timestamp": "2018-01-01", "video": ["p/0.jpg"] * 10}, "timestamp is '2018-01-01', not a li"),
    ({"polygon": 5}, "polygon is 5, not a list of WKT texts"),
    ({"polygon": {"type": "Polygon"}}, "polygon is .'type'.*, not a list of WKT texts"),
    ({"polygon": ["POLYGON ((nan 0, 0 9, 9 9))"]}, "ring 'nan 0.* is not a place"),
    ({"polygon": ["POLYGON ((1e400 0, 0 9, 9 9))"]}, "ring '1e400.* is not a place")])
def test_a_field_of_teochatlas_of_another_kind_is_named(teochatlas, change, says):
    with pytest.raises(ValueError, match=f"e.json row 1: .*{says}"):
        teochatlas(teochat(), teochat(**change))


def test_one_task_may_be_asked_for_by_its_name(teochatlas):
    """A trap: "question_answering" is in "change_question_answering"."""
    rows = [teochat(), teochat(task="change_question_answering")]
    data = teochatlas(*rows, tasks="change_question_answering")
    assert [recipe.task for recipe in data.samples.recipes] == ["change_question_answering"]
    assert "not asked for (question_answering)" in data.notes["why"][0]
    with pytest.raises(ValueError, match="no row is of nope; its tasks are change_question"):
        teochatlas(*rows, tasks=["nope"])
    for wrong in (0, -1, 1.5):
        with pytest.raises(ValueError, match=f"max_images is a whole number .* not {wrong}"):
            teochatlas(*rows, max_images=wrong)


def test_the_picture_that_is_not_there_is_the_one_that_is_named(teochatlas):
    turns = [{"from": "human", "value": "Is image 0 as image 2?"}, {"from": "gpt", "value": "Yes"}]
    data = teochatlas(teochat(), teochat(conversations=turns))
    assert "names image 0 of 2" in data.notes["why"].tolist()


@pytest.mark.parametrize("write", [write_nlvr2, write_nlvr, write_spot_the_diff, write_levir_cc,
                                   write_teochatlas])
@pytest.mark.parametrize("images", [1, 2])
def test_a_table_that_is_too_small_to_ask_about_is_refused(tmp_path, series, write, images):
    """A trap: to draw until something fits never ends if nothing does, as among equal images."""
    truth = series.truth
    small = replace(series, dataset=series.dataset.select([0] * images), truth=Truth(
        truth.scenes[:1] * images, truth.captions[:1] * images,
        [(row,) for row in range(images)]))
    with pytest.raises(ValueError, match="take a larger table|no place of this data set is seen t"):
        write(tmp_path, small)


def test_a_site_without_the_kind_of_pair_that_is_wanted_gives_the_other(series):
    """Two frames between which something changed: every pair is one of change, and it ends."""
    truth, rng = series.truth, np.random.default_rng(0)
    rows = next((a, b) for site in truth.sites for a, b in zip(site, site[1:], strict=False)
                if truth.scenes[a] != truth.scenes[b])
    small = Truth([truth.scenes[row] for row in rows], [truth.captions[row] for row in rows],
                  [(0, 1)])
    assert {compare(small, rng).answer for _ in range(40)} - {"Nothing changed."}


def test_captions_of_several_lines_become_one_line_of_flickr8k(tmp_path, series):
    captions = [["A lake.\nAnd a road.", "Two\u2028words\there."], ["Sea."], ["Town."]]
    table = replace(series, dataset=series.dataset.select(range(3)), truth=Truth(
        [None] * 3, captions, [(row,) for row in range(3)]))
    write_flickr8k(tmp_path, table)
    write_flickr8k(tmp_path, table)             # the same again: nothing is taken for another one
    assert read_flickr8k(tmp_path).rows["references"].tolist() == [
        ["A lake. And a road.", "Two words here."], ["Sea."], ["Town."]]


# --- scores --------------------------------------------------------------------------------------

@pytest.mark.parametrize(("text", "boxes", "unreadable"), [
    ("[nan, nan, nan, nan]", [], 1), ("[nan, 1, 2, 3]", [], 1), ("[inf, 0, 1, 2]", [], 1),
    ("[1, 2,\n 3, 4]", [(1, 2, 3, 4)], 0), ("[[1, 2, 3, 4], [5, 6, 7, 8]]",
                                             [(1, 2, 3, 4), (5, 6, 7, 8)], 0),
    ("[1, 2 [3, 4, 5, 6]", [(3, 4, 5, 6)], 0), ("[]", [], 1), ("", [], 0), ("!!!", [], 0),
    ("[1.5, 2, 3, 4]", [(1.5, 2, 3, 4)], 0), ("[90, 80, -10, 500]", [(0, 80, 90, 100)], 0),
    ("[1, 2, 3]", [], 1), ("[1, 2, 3, 4, 5]", [], 1), ("[1, 2, 3, ]", [], 1)])
def test_whatever_a_model_says_is_a_box_or_counted(text, boxes, unreadable):
    """A trap: float reads "nan", and Pillow cannot draw it: one answer ended the run."""
    assert parse_boxes(text) == (boxes, unreadable)
    assert draw(boxes=parse_boxes(text)[0]).any() == bool(boxes)


@pytest.mark.parametrize(("texts", "rings"), [
    (["POLYGON ((0 0, 0 9, 9 9, 0 0), (2 2, 2 3, 3 3, 2 2))"], 1),
    (["MULTIPOLYGON (((0 0, 0 9, 9 9)), ((20 20, 20 29, 29 29), (22 22, 22 23, 23 23)))"], 2),
    (["", "polygon z ((0 0 7, 0 9 7, 9 9 7))"], 1),
    (["MULTIPOLYGON (EMPTY, ((0 0, 0 9, 9 9)))"], 1),
    (["POLYGON ((1e300 0, 0 1e300, -1e300 -1e300))"], 1), ([""], 0), (["POLYGON EMPTY"], 0)])
def test_polygons_of_every_kind_are_drawn(texts, rings):
    polygons = parse_polygons(texts, "row 0")
    assert len(polygons) == rings and draw(polygons).any() == bool(rings)


@pytest.mark.parametrize("score", [bleu_4, cider_d])
@pytest.mark.parametrize(("texts", "references", "says"), [
    ([], [], "0 texts and 0 lists of references"), (["a"], [["a"], ["b"]], "1 texts and 2 lists"),
    (["a", "b"], [["a"], []], "references of text 1 are .., not|references of text 1 are"),
    # A trap: a text is a sequence of letters, and each of them was a reference.
    (["a cat"], ["a cat"], "references of text 0 are 'a cat': give a list"),
    (["a", float("nan")], [["a"], ["b"]], "number 1: is nan .float., not a text"),
    (["a"], [["a", None]], "references of text 0, number 1: is None")])
def test_what_cannot_be_compared_is_named(score, texts, references, says):
    with pytest.raises(ValueError, match=says):
        score(texts, references)
    if len(texts) == len(references) == 1:
        with pytest.raises(ValueError, match=says):
            rouge_l(texts[0], references[0])


HINDI = "\u0939\u093f\u0928\u094d\u0926\u0940", "\u092e\u0947\u0902"     # two words: "in Hindi"


@pytest.mark.parametrize(("first", "second"), [
    ("caf\u00e9 noir", "CAFE\u0301 noir!"), ("don\u2019t go", "don't go"),
    (" ".join(HINDI), ", ".join(HINDI))])
def test_the_same_words_in_other_signs_are_the_same_words(first, second):
    """A trap: accents that stand apart, and the vowel signs of Hindi, are not word characters."""
    assert words(first) == words(second) and len(words(first)) == 2
    assert rouge_l(first, [second]) == 1


def test_texts_of_nothing_but_signs_score_nothing():
    assert bleu_4(["", "!!!", "a"], [["a b"], ["..."], ["!", "?"]]) == 0
    assert cider_d(["", "!!!"], [["a b"], ["..."]]) == [0, 0] and rouge_l("!!!", ["...", ""]) == 0


@pytest.mark.parametrize("weights", [[1.0], [0, 0], [-1, 2], [np.nan, 1], [[1, 1]]])
def test_weights_are_one_for_each_answer(weights):
    with pytest.raises(ValueError, match="weights are 2 numbers of at least 0, one for each"):
        class_f1(["a", "b"], ["a", "b"], weights)


@pytest.fixture
def scored(tmp_path, series):
    """Samples of three formats with perfect predictions, and their score."""
    write_nlvr2(tmp_path, series, sentences=3)
    write_levir_cc(tmp_path, series)
    write_teochatlas(tmp_path, series)
    found = []
    for score, data in ((nlvr_scores, read_nlvr2(tmp_path)),
                        (caption_scores, read_levir_cc(tmp_path)),
                        (teochat_scores, read_teochatlas(tmp_path, "eval_TinyEarth.json"))):
        answers = [recipe.answer for recipe in data.samples.recipes]
        found.append((score, data, pd.DataFrame({
            "task": [recipe.task for recipe in data.samples.recipes], "answer": answers,
            "prediction": answers})))
    return found


def test_predictions_in_another_order_are_no_score(scored):
    """A trap: as many rows, and each scored against the references of another sample."""
    for score, data, table in scored:
        score(data, table)
        with pytest.raises(ValueError, match=r"sample \d+ of .* has the true answer .*, and row"):
            score(data, table.iloc[::-1])
        with pytest.raises(ValueError, match="the predictions lack prediction: give the table"):
            score(data, table.drop(columns="prediction"))


def test_predictions_from_a_file_are_texts_or_named(scored, tmp_path):
    """A trap: pandas reads "True" as a boolean, and an empty answer as a number that is none."""
    for score, data, table in scored:
        table = table.copy()
        table.loc[1, "prediction"] = ""
        table.to_csv(tmp_path / "predictions.csv", index=False)
        again = pd.read_csv(tmp_path / "predictions.csv")
        with pytest.raises(ValueError, match="not a text; of a table from a CSV|answer"):
            score(data, again)
        again = pd.read_csv(tmp_path / "predictions.csv", dtype=str, keep_default_na=False)
        assert str(score(data, again)) == str(score(data, table))


# --- the checklist -------------------------------------------------------------------------------

def test_pictures_in_memory_are_compared_as_files_are(tmp_path, picture):
    """A trap: 16 bits become white, transparency becomes black, and a photo lies on its side."""
    deep = Image.fromarray(np.asarray(picture(1).convert("L")).astype("uint16") * 200)
    clear = picture(2).convert("RGBA")
    clear.putalpha(Image.linear_gradient("L").resize(clear.size))
    clear.paste((0, 0, 0, 0), (0, 0, 30, 30))
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    deep.save(tmp_path / "0.png")
    clear.save(tmp_path / "1.png")
    picture(3).save(tmp_path / "2.png", exif=exif)
    files = [tmp_path / f"{k}.png" for k in range(3)]
    found = near_duplicates([Image.open(file) for file in files], files, most_different=0)
    assert (perceptual_hash(deep) == perceptual_hash(open_image(files[0]))).all()
    assert [(a[-1], Path(b).stem) for a, b in zip(found["first"], found["second"], strict=True)
            ] == [("0", "0"), ("1", "1"), ("2", "2")]


def test_a_folder_is_compared_by_its_pictures_alone(tmp_path, save):
    save(*(tmp_path / "all" / "forest" / f"{k}.png" for k in range(3)))
    forest = tmp_path / "all" / "forest"
    (forest / "._0.png").write_bytes(b"of macOS")
    (forest / "folder.png").mkdir()
    save(tmp_path / "all" / "@eaDir" / "0.png", tmp_path / "all" / ".cache" / "0.png")
    assert near_duplicates(tmp_path / "all").empty
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "linked").symlink_to(forest, target_is_directory=True)
    (forest / "up").symlink_to(tmp_path / "test", target_is_directory=True)     # and back again
    assert len(near_duplicates(forest, tmp_path / "test")) == 3


def test_each_picture_is_opened_once(tmp_path, save, monkeypatch):
    save(*(tmp_path / f"{k}.png" for k in range(4)))
    opened = []
    monkeypatch.setattr("vlm_utils.real_data.duplicates.open_image",
                        lambda file: opened.append(file) or open_image(file))
    for turned in (False, True):
        assert near_duplicates(tmp_path, turned=turned).empty
    assert len(opened) == 8


def test_what_is_no_picture_and_no_share_is_named(picture):
    with pytest.raises(ValueError, match="first set, picture 1: is a ndarray, not a file or a"):
        near_duplicates([picture(), np.zeros((9, 9, 3), np.uint8)])
    for wrong in (-0.1, 1, 15):
        with pytest.raises(ValueError, match="most_different is a share, from 0 to below 1, not"):
            near_duplicates([picture()], most_different=wrong)


# --- folders -------------------------------------------------------------------------------------

def lines(*rows) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


@pytest.mark.parametrize(("name", "content"), [
    ("metadata.csv", b"file_name,caption\r\na.png,A lake.\nb.png,A road.\r"),
    ("metadata.csv", b"caption;file_name\rA lake.;a.png\rA road.;b.png\r"),
    ("metadata.csv", b"caption\tfile_name\r\n\r\nA lake.\ta.png\r\n\r\nA road.\tb.png"),
    ("metadata.jsonl", lines({"file_name": "a.png", "caption": "A lake."},
                             {"file_name": "b.png", "caption": "A road."}).replace(b"\n", b"\r")),
    ("metadata.jsonl", b'{"file_name": "a.png", "caption": "A lake."}\r\n\n'
                       b'{"file_name": "b.png", "caption": "A road."}')])
def test_metadata_is_read_whatever_ends_its_lines(tmp_path, save, name, content):
    save(tmp_path / "a.png", tmp_path / "b.png")
    (tmp_path / name).write_bytes(content)
    assert [(p.file.name, p.captions) for p in list_pictures(tmp_path)] == [
        ("a.png", ("A lake.",)), ("b.png", ("A road.",))]


def test_a_caption_that_stands_twice_in_a_line_is_not_dropped(tmp_path, save):
    """A trap: of two values with one name, json keeps the last."""
    save(tmp_path / "a.png")
    (tmp_path / "metadata.jsonl").write_text(
        '{"file_name": "a.png", "caption": "A lake.", "caption": "A road."}\n')
    with pytest.raises(ValueError, match="metadata.jsonl, line 1: .*it has 'caption' twice"):
        list_pictures(tmp_path)


@pytest.mark.parametrize(("value", "says"), [
    (5, "type int .5.: write a text"), (True, "type bool .True.: write a text"),
    (["A", "B"], "type list .*: write several captions as caption_0")])
def test_the_remedy_fits_the_caption(tmp_path, save, value, says):
    save(tmp_path / "a.png")
    (tmp_path / "metadata.jsonl").write_bytes(lines({"file_name": "a.png", "caption": value}))
    with pytest.raises(ValueError, match=f"line 1, caption: is of {says}"):
        list_pictures(tmp_path)


def test_spaces_after_the_commas_of_a_table_do_not_hide_a_split(tmp_path, save):
    save(tmp_path / "a.png", tmp_path / "b.png")
    (tmp_path / "metadata.csv").write_text(
        "file_name, caption, split\na.png, A lake., train\nb.png, A road., Test \n")
    assert [(p.captions, p.split) for p in list_pictures(tmp_path)] == [
        (("A lake.",), "train"), (("A road.",), "test")]


def test_a_class_whose_pictures_are_not_read_is_named(tmp_path, save):
    """A trap: the class was gone without a word."""
    save(*(tmp_path / "forest" / f"{k}.png" for k in range(2)))
    (tmp_path / "lake").mkdir()
    (tmp_path / "lake" / "1.jp2").write_bytes(b"JPEG 2000")
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "read.md").write_text("no class")
    with pytest.warns(UserWarning, match="lake: holds no picture that is read, .*: 1.jp2") as said:
        assert {picture.captions for picture in list_pictures(tmp_path)} == {("forest",)}
    assert len(said) == 1


@pytest.mark.parametrize("deep", ["lake/north", "lake/north/east"])
def test_pictures_below_a_class_are_named_however_deep(tmp_path, save, deep):
    save(tmp_path / "forest" / "1.png", tmp_path / deep / "1.png")
    with pytest.raises(ValueError, match=f"{deep}: holds pictures two levels below"):
        list_pictures(tmp_path)


def test_links_in_a_ring_end(tmp_path, save):
    save(tmp_path / "forest" / "1.png", tmp_path / "lake" / "1.png")
    (tmp_path / "forest" / "up").symlink_to(tmp_path, target_is_directory=True)
    assert len(list_pictures(tmp_path)) == 2


@pytest.mark.parametrize(("row", "says"), [
    ({"file_name": ["a.png"], "caption": "A lake."}, "file_name that is a text .found: .'a.png'"),
    ({"file_name": "A.png ", "caption": "A lake."}, "there is a.png: large and small letters, or"),
    ({"file_name": "empty.png", "caption": "A lake."}, "empty.png: is an empty file, of 0 bytes")])
def test_what_is_wrong_with_a_name_is_said(tmp_path, save, row, says):
    save(tmp_path / "a.png")
    (tmp_path / "empty.png").touch()
    (tmp_path / "metadata.jsonl").write_bytes(lines(row))
    with pytest.raises(ValueError, match=says), warnings.catch_warnings():
        warnings.simplefilter("ignore")             # of the picture that is not named
        load_image_folder(tmp_path)


def test_a_split_of_another_name_is_not_taken_for_a_class_without_a_word(tmp_path, save):
    save(tmp_path / "train" / "1.png", tmp_path / "eval" / "1.png")
    with pytest.warns(UserWarning, match="read as classes, because eval is not called train, vali"):
        assert {picture.captions for picture in list_pictures(tmp_path)} == {("train",), ("eval",)}


def test_what_a_system_left_in_an_empty_split_is_no_split(tmp_path, save):
    save(*(tmp_path / "train" / name / "1.png" for name in ("forest", "lake")))
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / ".DS_Store").write_bytes(b"of macOS")
    assert {picture.split for picture in list_pictures(tmp_path)} == {"train"}


@pytest.mark.parametrize("number", range(8))
def test_a_copy_in_another_class_does_not_make_a_folder_too_small(tmp_path, save, monkeypatch,
                                                                  number):
    """A trap: the copy stood for a picture of something else in the test, and was of both."""
    save(*(tmp_path / name / f"{k}.png" for name in ("forest", "lake") for k in range(8)))
    (tmp_path / "lake" / "copy.png").write_bytes(
        (tmp_path / "forest" / f"{number}.png").read_bytes())
    monkeypatch.setenv("VLM_IMAGES", str(tmp_path))
    tables = {name: load_image_table(get_profile(), name) for name in ("train", "test")}
    assert len(tables["train"]) + len(tables["test"]) == 17
    both = {"lake/copy.png", f"forest/{number}.png"}
    assert sum(bool(both & set(table.files)) for table in tables.values()) == 1


# --- pictures that somebody has opened himself ---------------------------------------------------

def test_an_opened_picture_looks_as_its_file_does(processor, tmp_path):
    """A trap: convert("RGB") shows what lies under transparency, and forgets how it was held."""
    clear = Image.new("RGBA", (40, 20), (255, 0, 0, 0))
    clear.paste((0, 0, 255, 255), (0, 0, 20, 20))
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    clear.convert("RGB").save(tmp_path / "held.png", exif=exif)
    clear.save(tmp_path / "clear.png")
    clear.quantize(4).save(tmp_path / "palette.png", transparency=0)
    clear.convert("RGB").save(tmp_path / "colour.png", transparency=(255, 0, 0))
    clear.convert("LA").save(tmp_path / "grey.png")
    for name in ("held", "clear", "palette", "colour", "grey"):
        file = tmp_path / f"{name}.png"
        seen = processor.pixel_values([Image.open(file)])
        assert torch.equal(seen, processor.pixel_values([open_image(file)])), name
    white = processor.pixel_values([Image.open(tmp_path / "clear.png")])[0, :, :, -1]
    assert (white == 1).all()


def test_an_animation_is_not_taken_for_its_first_frame(processor, picture, tmp_path):
    picture(0).save(tmp_path / "a.gif", append_images=[picture(1)], **GIF)
    with pytest.raises(ValueError, match="image 2 is an animation of 2 frames: give the frames"):
        processor.pixel_values([picture(), Image.open(tmp_path / "a.gif")])


@pytest.mark.parametrize(("images", "prompt", "says"), [
    (2, None, "sample 0 of the batch: the prompt is None, not a text"),
    (2, 5, "the prompt is 5, not a text"), (2, "What?", "has 0 <image> placeholders and 2 images"),
    (1, "<image><image>What?", "has 2 <image> placeholders and 1 images"),
    (0, "<image>What?", "has 1 <image> placeholders and 0 images"),
    ("one", "<image>What?", "images is one image: give a list, even of one"),
    ("path", "<image>What?", "image 1 is a str, not a PIL image: open files with"),
    ("array", "<image>What?", "image 1 is a ndarray, not a PIL image"),
    ("stack", "<image>What?", "images is a ndarray, not a list of PIL images"),
    ("none", "<image>What?", "images is a NoneType, not a list of PIL images")])
def test_a_sample_that_cannot_be_asked_is_named(model, processor, picture, images, prompt, says):
    kinds = {"one": picture(), "path": ["a.png"], "array": [np.zeros((9, 9, 3), np.uint8)],
             "stack": np.zeros((1, 9, 9, 3), np.uint8), "none": None}
    pictures = [picture() for _ in range(images)] if isinstance(images, int) else kinds[images]
    with pytest.raises(ValueError, match=says):
        answer_sample(model, processor, Sample(pictures, prompt, None, ""))


def test_rows_that_were_not_made_into_samples_are_told_how(processor):
    with pytest.raises(ValueError, match="samples are a list, .*own_samples.rows. makes one"):
        EncodedSamples([{"images": [], "prompt": "What?", "answer": "A lake."}], processor)
    with pytest.raises(ValueError, match="sample 1 of the batch is a dict, not a Sample"):
        encode_samples([Sample([], "What?", "A lake.", ""), {"prompt": "What?"}], processor)
    one, = encode_samples(Sample([], "What?", "A lake.", ""), processor)
    assert one["input_ids"]


# --- own_samples, AutoProcessor ------------------------------------------------------------------

ROW = {"images": ["a.png"], "prompt": "Was it?", "answer": "Yes."}


@pytest.mark.parametrize(("rows", "says"), [
    (None, "is a NoneType, not a list of rows"), (5, "is a int, not a list"), ("a.csv", "a str,"),
    (ROW, "is a dict, not a list of rows"), (pd.DataFrame([ROW]), "is a DataFrame.*to_dict"),
    (DatasetDict(), "is a DatasetDict, not a list.*one split"),
    ([ROW | {"images": 5}], "row 0: images is a int, not a list of images"),
    # A trap: which image is the first of a set?
    ([ROW | {"images": {"a.png"}}], "row 0: images is a set, not a list of images"),
    ([ROW | {"images": {"0": "a.png"}}], "row 0: images is a dict, not a list of images"),
    ([ROW | {"prompt": "<image>"}], "row 0: prompt is '<image>', not a text"),
    ([ROW | {"images": np.zeros((2, 9, 9, 3), np.uint8)}], "row 0, image 1: is a ndarray.*from"),
    ([ROW | {"images": torch.zeros(1, 3, 9, 9)}], "row 0, image 1: is a Tensor.*fromarray"),
    ([ROW | {"images": [None]}], "row 0, image 1: is a NoneType, not a path")])
def test_rows_that_are_none_are_refused_in_words(tmp_path, monkeypatch, save, rows, says):
    monkeypatch.chdir(tmp_path)
    save(tmp_path / "a.png")
    with pytest.raises(ValueError, match=f"mine.*{says}"):
        own_samples(rows, "mine")


@pytest.mark.parametrize("column", [ImageFeature(), Value("string")])
def test_an_image_that_is_missing_in_a_data_set_is_named(tmp_path, monkeypatch, save, column):
    monkeypatch.chdir(tmp_path)
    save(tmp_path / "a.png")
    rows = Dataset.from_list([ROW, ROW | {"images": ["a.png", None]}], features=Features({
        "images": List(column), "prompt": Value("string"), "answer": Value("string")}))
    with pytest.raises(ValueError, match="row 1, image 2: is missing"):
        own_samples(rows)


@pytest.fixture
def auto(model, processor, tmp_path):
    model.save_pretrained(tmp_path / "saved")
    processor.save_pretrained(tmp_path / "saved")
    return AutoProcessor.from_pretrained(tmp_path / "saved")


@pytest.mark.parametrize(("images", "says"), [
    ("a.png", "image 1 is a str, not a PIL image: open files with"),
    (["a.png"], "image 1 is a str"), (b"a", "image 1 is a bytes"), (Path("a.png"), "1 is a .*Path"),
    (np.zeros((9, 9, 3), np.uint8), "image 1 is a ndarray"), (torch.zeros(3, 9, 9), "is a Tensor")])
def test_what_is_no_picture_is_refused_by_the_processor(auto, images, says):
    """A trap: a text is a list of texts, each of which is a list of texts ..."""
    with pytest.raises(ValueError, match=says):
        auto(images=images, text="What?")


@pytest.mark.parametrize(("given", "says"), [
    ([2, 0], r"\[1, 1\] <image> .* lists hold \[2, 0\] images"), ([None, 2], r"hold \[0, 2\]"),
    ([2], r"hold \[2\]"), ([1, 1, 0], r"hold \[1, 1, 0\]")])
def test_an_image_of_one_prompt_is_not_given_to_another(auto, picture, given, says):
    """A trap: as many images as placeholders, but not in each list."""
    images = [None if count is None else [picture()] * count for count in given]
    with pytest.raises(ValueError, match=says):
        auto(images=images, text=["<image>What?", "<image>Where?"])
    assert len(auto(images=[[picture()], [picture()]], text=["<image>What?", "<image>Where?"])[
        "pixel_values"]) == 2


@pytest.mark.parametrize("text", [None, [], [None], 5, ["<image>What?", 5]])
def test_without_a_prompt_the_processor_says_so(auto, picture, text):
    with pytest.raises(ValueError, match="text is .*, not a prompt or a list of prompts"):
        auto(images=[picture()], text=text)


# --- commands ------------------------------------------------------------------------------------

def refused(monkeypatch, capsys, *arguments: str) -> str:
    """The sentence with which a command ends with status 2."""
    monkeypatch.setattr(sys, "argv", ["vlm_utils", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    return capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize(("arguments", "says"), [
    (["course", "11"], "no lesson '11': there are ['01_"), (["check", "04", "0"], "no lesson '0'"),
    (["check", "1x"], "no lesson '1x'"), (["course", ""], "no lesson ''"),
    (["course", "--output", "file", "01"], "--output file: .*file is a file, not a folder"),
    (["check", "--output", "file/in/it", "01"], "--output file/in/it: .*file is a file, not a fol"),
    (["site", "--output", "file"], "--output file: .*file is a file, not a folder"),
    (["prefetch", "--folder", "file"], "--folder file: .*file is a file, not a folder"),
    (["progress", "--notebooks", "file"], "--notebooks file is not a folder: name the one"),
    (["progress", "--notebooks", "gone"], "--notebooks gone is not a folder: name the one"),
    (["doctor", "--profile", "huge"], "unknown profile 'huge'"), (["nonsense"], "invalid choice"),
    (["doctor", "now"], "unrecognized arguments: now"),
    (["train", "--output", "run", "--mixture", "select 99: 4"],
     "asks for samples of 99 images, and the model has names for 16"),
    (["train", "--output", "run", "--mixture", "select 2: 0"], "asks for no sample at all")])
def test_wrong_use_of_a_command_gets_one_sentence(monkeypatch, capsys, tmp_path, arguments, says):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("mine")
    assert re.search(says if ".*" in says else re.escape(says),
                     refused(monkeypatch, capsys, *arguments))
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize(("name", "value", "command", "says"), [
    ("VLM_IMAGES", "gone", "course", "VLM_IMAGES names gone, which is not a folder"),
    ("VLM_IMAGES", "gone", "check", "VLM_IMAGES names gone, which is not a folder"),
    ("VLM_OUTPUT", "file", "course", "file is a file, not a folder: name another place"),
    ("VLM_OUTPUT", "file", "site", "file is a file, not a folder: name another place"),
    ("VLM_PROFILE", "huge", "progress", "unknown profile 'huge': set VLM_PROFILE to one of"),
    ("VLM_SUBSET", "some", "check", "VLM_SUBSET is a whole number of images")])
def test_wrong_surroundings_get_one_sentence(monkeypatch, capsys, tmp_path, name, value, command,
                                             says):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("mine")
    monkeypatch.setenv(name, value)
    assert says in refused(monkeypatch, capsys, command)


def test_lessons_are_chosen_by_their_number():
    """A trap: the name of lesson 10 starts with 1."""
    def chosen(*numbers):
        return [path.stem[:2] for path in choose(REPOSITORY / "notebooks", list(numbers))]

    assert chosen("1") == chosen("01") == chosen("01_architecture") == ["01"]
    assert chosen("10", "4") == ["04", "10"] and len(chosen()) == 10
    with pytest.raises(ValueError, match="no lesson '0'"):
        chosen("0")
