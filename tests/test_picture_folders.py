"""A folder of the user's own: which files are read, in which order, with which captions."""

import csv
import json
import os
import shutil

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from vlm_utils.sources.picture_folders import list_pictures, load_image_folder

# Said in many of these tests, and asked for in one.
pytestmark = pytest.mark.filterwarnings("ignore:.*not named in the metadata")

# --- folders -----------------------------------------------------------------------------------

@pytest.fixture
def folder(tmp_path, picture):
    """Four images with captions: two of a.png, one of the others."""
    rows = []
    for i, name in enumerate(["a.png", "b.jpg", "c.webp", "d.bmp"]):
        picture(i, (30 + i, 20)).save(tmp_path / name)
        rows.append({"file_name": name, "caption_0": f"Thing {i}."})
    rows[0]["caption_1"] = "Another thing."
    write(tmp_path, rows)
    return tmp_path


def write(folder, rows):
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    (folder / "metadata.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


def test_metadata_gives_images_and_their_captions(folder):
    dataset = load_image_folder(folder)
    assert [row["image"].size for row in dataset] == [(30, 20), (31, 20), (32, 20), (33, 20)]
    assert dataset["caption_0"][2] == "Thing 2."
    assert dataset["caption_1"][0] == "Another thing."
    assert not dataset["caption_1"][1]


def test_metadata_may_be_a_table(folder):
    (folder / "metadata.jsonl").unlink()
    (folder / "metadata.csv").write_text('file_name,caption_0\nb.jpg,"A dog, running."\n')
    dataset = load_image_folder(folder)
    assert dataset["caption_0"][:] == ["A dog, running."]
    assert dataset[0]["image"].size == (31, 20)


def test_without_metadata_frames_come_in_the_order_that_people_count(tmp_path):
    """frame_2 comes before frame_10, which the alphabet does not know."""
    for number in (10, 2, 1, 33, 9):
        Image.new("RGB", (number, 1)).save(tmp_path / f"frame_{number}.png")
    (tmp_path / "notes.txt").write_text("no image")
    widths = [row["image"].width for row in load_image_folder(tmp_path)]
    assert widths == [1, 2, 9, 10, 33]


@pytest.mark.parametrize("names", [
    ["1.png", "2.png", "10.png"], ["2024-01-05.png", "2024-02-01.png", "2024-11-01.png"],
    ["a.png", "b.jpg", "c.PNG"], ["frame_007.png", "frame_08.png", "frame_9.png"],
    ["site1_t2.png", "site1_t10.png", "site2_t1.png"]])
def test_names_with_numbers_are_in_order(tmp_path, names):
    for width, name in reversed(list(enumerate(names, start=1))):
        Image.new("RGB", (width, 1)).save(tmp_path / name)
    assert [row["image"].width for row in load_image_folder(tmp_path)] == [1, 2, 3]


@pytest.mark.parametrize(("line", "says"), [
    ({"file_name": "gone.png", "caption_0": "x"}, "line 3: names gone.png, which is not in"),
    ('{"file_name": "a.png"', "line 3: is not JSON"),
    ({"caption_0": "x"}, "line 3: has no file_name"),
    ([1, 2], "line 3: has no file_name"),
    ({"file_name": 7, "caption_0": "x"}, "line 3: has no file_name"),
    ({"file_name": "a.png"}, "line 3: a.png has no caption, others have"),
])
def test_a_wrong_line_is_named(folder, line, says):
    good = {"file_name": "a.png", "caption_0": "A thing."}
    write(folder, [good, good, line])
    with pytest.raises(ValueError, match=says):
        load_image_folder(folder)


def test_a_damaged_file_in_a_folder_is_named_before_anything_starts(folder):
    (folder / "c.webp").write_bytes(b"not an image")
    with pytest.raises(ValueError, match="c.webp: is not an image"):
        load_image_folder(folder)


def test_an_empty_folder_says_what_was_expected(tmp_path):
    with pytest.raises(ValueError, match=f"{tmp_path.name}: holds no image .*.jpg.*.png"):
        load_image_folder(tmp_path)


def test_metadata_that_names_nothing_is_refused(folder):
    (folder / "metadata.jsonl").write_text("\n")
    with pytest.raises(ValueError, match="metadata.jsonl: names no image"):
        load_image_folder(folder)


def test_a_folder_is_not_read_from_memory_of_an_earlier_one(folder, picture):
    first = load_image_folder(folder)._fingerprint
    assert load_image_folder(folder)._fingerprint == first
    picture(8, (99, 9)).save(folder / "a.png")
    assert load_image_folder(folder)._fingerprint != first


def test_other_contents_of_equal_size_and_time_are_noticed(folder, picture):
    """A trap: a name made of size and time is the same, and old features are taken for new."""
    file = folder / "d.bmp"
    before, first = file.stat(), load_image_folder(folder)
    picture(99, (33, 20)).save(file)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    after = file.stat()
    assert (after.st_size, after.st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    second = load_image_folder(folder)
    assert second._fingerprint != first._fingerprint
    assert np.array_equal(second[3]["image"], picture(99, (33, 20)))


def test_the_same_pictures_elsewhere_have_the_same_name(folder, tmp_path_factory):
    """Moved, a folder's encoded images are found again."""
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "copy"
    shutil.copytree(folder, elsewhere)
    assert load_image_folder(elsewhere)._fingerprint == load_image_folder(folder)._fingerprint


# --- the order of frames, and what is left aside -------------------------------------------------

@pytest.mark.parametrize("names", [
    ["Frame_2.png", "frame_3.png", "Frame_10.png"], ["b.PNG", "C.png", "d.Png"],
    ["IMG_1.png", "img_2.png", "IMG_12.png"]])
def test_the_case_of_letters_does_not_move_a_frame(tmp_path, names):
    """The alphabet of computers puts all capitals first."""
    for width, name in reversed(list(enumerate(names, start=1))):
        Image.new("RGB", (width, 1)).save(tmp_path / name)
    assert [row["image"].width for row in load_image_folder(tmp_path)] == [1, 2, 3]


@pytest.mark.parametrize("junk", ["._a.png", ".DS_Store", "Thumbs.db", ".hidden.jpg", "desktop.ini",
                                  "README.md", "LICENSE", "scene.tif.aux.xml", "a.tfw"])
def test_what_systems_leave_beside_pictures_is_ignored(tmp_path, recwarn, junk):
    Image.new("RGB", (2, 2)).save(tmp_path / "a.png")
    (tmp_path / junk).write_bytes(b"\0\5\x16\7 Mac OS X")
    (tmp_path / "__MACOSX").mkdir()
    (tmp_path / "__MACOSX" / "._a.png").write_bytes(b"\0\5\x16\7 Mac OS X")
    assert [p.file.name for p in list_pictures(tmp_path)] == ["a.png"]
    assert [str(w.message) for w in recwarn] == []


@pytest.mark.parametrize("name", ["b.jp2", "b.nef", "b.mp4", "b.jpg_large", "b"])
def test_what_is_not_read_for_its_name_is_named(tmp_path, name):
    Image.new("RGB", (2, 2)).save(tmp_path / "a.png")
    (tmp_path / name).write_bytes(b"anything")
    with pytest.warns(UserWarning, match=f"not read as pictures, for their names: {name}$"):
        assert len(list_pictures(tmp_path)) == 1


def test_a_picture_that_cannot_be_read_here_is_never_skipped(tmp_path):
    """Without it the frames before and after it would stand side by side."""
    for name in ("a.png", "c.png"):
        Image.new("RGB", (2, 2)).save(tmp_path / name)
    (tmp_path / "b.heic").write_bytes(b"\0\0\0\x18ftypheic" + b"\0" * 50)
    with pytest.raises(ValueError, match="b.heic: is HEIC"):
        load_image_folder(tmp_path)


@pytest.mark.skipif(os.name != "posix", reason="pipes are files on POSIX")
def test_a_pipe_among_the_frames_is_named(tmp_path):
    Image.new("RGB", (2, 2)).save(tmp_path / "a.png")
    os.mkfifo(tmp_path / "b.png")
    with pytest.raises(ValueError, match="b.png: cannot be opened .it is a pipe"):
        load_image_folder(tmp_path)


def test_a_folder_may_have_brackets_and_stars_in_its_name(tmp_path):
    folder = tmp_path / "my [best] pictures * (2024)?"
    folder.mkdir()
    Image.new("RGB", (3, 2)).save(folder / "a [1].png")
    write(folder, [{"file_name": "a [1].png", "caption_0": "One."}])
    assert load_image_folder(folder)[0]["image"].size == (3, 2)


# --- class folders and splits --------------------------------------------------------------------

def classes(folder, picture, counts, start=0, suffix="png"):
    """Class folders with so many pictures each."""
    seed = start
    for name, count in counts.items():
        (folder / name).mkdir(parents=True)
        for k in range(count):
            picture(seed).save(folder / name / f"{k}.{suffix}")
            seed += 1
    return folder


def test_the_class_is_the_caption(tmp_path, picture):
    classes(tmp_path, picture, {"forest": 2, "sea lake": 1, "AnnualCrop": 1})
    (tmp_path / "README.md").write_text("what this is")
    (tmp_path / "empty").mkdir()
    dataset = load_image_folder(tmp_path)
    assert dataset["caption_0"][:] == ["AnnualCrop", "forest", "forest", "sea lake"]
    assert [p.file.name for p in list_pictures(tmp_path)] == ["0.png", "0.png", "1.png", "0.png"]
    assert "split" not in dataset.column_names


def test_pictures_two_levels_down_are_named(tmp_path, picture):
    classes(tmp_path / "forest", picture, {"2020": 1, "2021": 1})
    with pytest.raises(ValueError, match="2020: holds pictures two levels below .*directly into"):
        list_pictures(tmp_path)


def test_pictures_beside_folders_of_pictures_are_frames_and_the_folders_named(tmp_path, picture):
    classes(tmp_path, picture, {"thumbnails": 2})
    picture(9).save(tmp_path / "a.png")
    with pytest.warns(UserWarning, match="beside folders of pictures .thumbnails., which are not"):
        assert [p.file.name for p in list_pictures(tmp_path)] == ["a.png"]


@pytest.mark.parametrize(("names", "read"), [
    (("train", "validation", "test"), ("train", "validation", "test")),
    (("Training", "val", "TEST"), ("train", "validation", "test"))])
def test_folders_named_for_splits_are_the_splits(tmp_path, picture, names, read):
    for k, name in enumerate(names):
        classes(tmp_path / name, picture, {"forest": 2, "lake": 1}, start=10 * k)
    pictures = list_pictures(tmp_path)
    assert {p.split for p in pictures} == set(read)
    assert all(p.captions[0] == p.file.parent.name for p in pictures)
    assert all(p.file.parent.parent.name == dict(zip(read, names, strict=True))[p.split]
               for p in pictures)
    assert load_image_folder(tmp_path)["split"].count("train") == 3


def test_splits_may_have_metadata_of_their_own(tmp_path, picture):
    for k, name in enumerate(("train", "test")):
        (tmp_path / name).mkdir()
        picture(k).save(tmp_path / name / "a.png")
        write(tmp_path / name, [{"file_name": "a.png", "caption": f"For {name}."}])
    assert [(p.split, p.captions) for p in list_pictures(tmp_path)] == [
        ("test", ("For test.",)), ("train", ("For train.",))]


def test_metadata_above_the_splits_names_them_by_its_paths(tmp_path, picture):
    for k, name in enumerate(("train", "test")):
        (tmp_path / name).mkdir()
        picture(k).save(tmp_path / name / "a.png")
    write(tmp_path, [{"file_name": f"{name}/a.png", "text": "A."} for name in ("train", "test")])
    assert [p.split for p in list_pictures(tmp_path)] == ["train", "test"]


def test_a_class_may_be_called_train(tmp_path, picture):
    """Beside planes and buses, a train is a train."""
    classes(tmp_path, picture, {"train": 1, "plane": 1})
    assert {(p.split, p.captions[0]) for p in list_pictures(tmp_path)} == {
        (None, "train"), (None, "plane")}


def test_captions_in_some_splits_only_are_refused(tmp_path, picture):
    classes(tmp_path / "train", picture, {"forest": 1})
    (tmp_path / "test").mkdir()
    picture(9).save(tmp_path / "test" / "a.png")
    with pytest.raises(ValueError, match="test: has pictures without captions, other parts"):
        list_pictures(tmp_path)


# --- metadata ------------------------------------------------------------------------------------

@pytest.mark.parametrize("column", ["caption_0", "caption", "text", "caption_1", "caption_12"])
@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
def test_captions_are_read_from_every_column_they_may_stand_in(tmp_path, picture, column, kind):
    """Captions under "text" were once dropped without a word, and training took other images."""
    picture(0).save(tmp_path / "a.png")
    table = pd.DataFrame([{"file_name": "a.png", column: "A dog, running."}])
    write_table(tmp_path, table, kind)
    assert load_image_folder(tmp_path)["caption_0"][:] == ["A dog, running."]


def write_table(folder, table, kind):
    path = folder / f"metadata.{kind}"
    if kind == "jsonl":
        table.to_json(path, orient="records", lines=True)
    elif kind == "csv":
        table.to_csv(path, index=False)
    else:
        table.to_parquet(path, index=False)


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
def test_unknown_columns_are_refused_with_what_is_found_and_what_is_expected(tmp_path, picture,
                                                                             kind):
    picture(0).save(tmp_path / "a.png")
    write_table(tmp_path, pd.DataFrame([{"file_name": "a.png", "description": "x"}]), kind)
    with pytest.raises(ValueError, match=f"metadata.{kind}: has no captions. Its columns are "
                                         "file_name, description; .* caption_0, .*, or text"):
        list_pictures(tmp_path)


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
def test_a_table_without_file_names_says_what_it_has(tmp_path, kind):
    write_table(tmp_path, pd.DataFrame([{"image": "a.png", "caption": "x"}]), kind)
    with pytest.raises(ValueError, match=f"metadata.{kind}.*: has no file_name .found: .*image"):
        list_pictures(tmp_path)


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
def test_one_row_for_each_caption_is_joined(tmp_path, picture, kind):
    """A trap: five rows a picture are five pictures, and each is in both splits."""
    for name in ("a.png", "b.png"):
        picture(ord(name[0])).save(tmp_path / name)
    table = pd.DataFrame([{"file_name": name, "caption": f"{name} {k}"} for k in range(5)
                          for name in ("a.png", "b.png")])
    write_table(tmp_path, table, kind)
    pictures = list_pictures(tmp_path)
    assert [p.captions for p in pictures] == [tuple(f"{name} {k}" for k in range(5))
                                              for name in ("a.png", "b.png")]
    assert load_image_folder(tmp_path).num_rows == 2


def test_a_caption_that_is_said_twice_is_kept_once(folder):
    write(folder, [{"file_name": "a.png", "caption_0": "Same.", "caption_1": "Same."},
                   {"file_name": "./a.png", "caption_0": "Same."}])
    assert [p.captions for p in list_pictures(folder)] == [("Same.",)]


def test_more_captions_than_five_are_read_and_fewer(folder):
    write(folder, [{"file_name": "a.png"} | {f"caption_{k}": f"No. {k}" for k in range(12)},
                   {"file_name": "b.jpg", "caption_3": "One."}])
    first, second = list_pictures(folder)
    assert first.captions == tuple(f"No. {k}" for k in range(12)) and second.captions == ("One.",)
    dataset = load_image_folder(folder)
    assert dataset["caption_11"][:] == ["No. 11", None] and dataset["caption_0"][1] == "One."


@pytest.mark.parametrize(("value", "says"), [
    ("", "is empty or white space"), (" \t\n", "is empty or white space"),
    (float("nan"), "is NaN"), (["One.", "Two."], "is of type list"),
    ({"en": "One."}, "is of type dict"),
    (7, "is of type int .7.: write"), (True, "is of type bool"), ("half \ud83d", "holds half"),
    ("x" * 20_000, "has 20000 characters")])
def test_a_caption_that_is_no_text_is_refused_with_file_and_row(folder, value, says):
    write(folder, [{"file_name": "a.png", "caption_0": "Fine."},
                   {"file_name": "b.jpg", "caption_0": "Fine.", "caption_1": value}])
    with pytest.raises(ValueError, match=f"metadata.jsonl, line 2, caption_1: {says}"):
        load_image_folder(folder)


@pytest.mark.parametrize(("cells", "says"), [
    ("b.jpg,", "row 2: b.jpg has no caption, others have"), ("b.jpg,  ", "row 2, caption_0: is e"),
    ("b.jpg,nan", "row 2, caption_0: is 'nan'"), ("b.jpg,None", "row 2, caption_0: is 'None'"),
    ("b.jpg,One, two.", "row 2: has 3 cells, the first line 2: .*double quotes"),
    ("b.jpg", "row 2: has 1 cells"), ('b.jpg,"open', "line 3: is not a table")])
def test_a_wrong_row_of_a_table_is_named(folder, cells, says):
    (folder / "metadata.jsonl").unlink()
    (folder / "metadata.csv").write_text(f"file_name,caption_0\na.png,Fine.\n{cells}\n")
    with pytest.raises(ValueError, match=f"metadata.csv, {says}"):
        load_image_folder(folder)


@pytest.mark.parametrize("value", [None, float("nan"), 3, "  "])
def test_a_wrong_value_of_a_parquet_file_is_named(folder, value):
    (folder / "metadata.jsonl").unlink()
    pd.DataFrame([{"file_name": "a.png", "caption_0": "Fine.", "caption_1": None},
                  {"file_name": "b.jpg", "caption_0": None, "caption_1": value}],
                 ).to_parquet(folder / "metadata.parquet")
    with pytest.raises(ValueError, match="metadata.parquet, row [12]"):
        load_image_folder(folder)


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_tables_as_spreadsheets_write_them(folder, separator, encoding):
    (folder / "metadata.jsonl").unlink()
    with (folder / "metadata.csv").open("w", encoding=encoding, newline="") as file:
        csv.writer(file, delimiter=separator).writerows(
            [["file_name", "caption_0"], ["a.png", 'Grün, "quer"; \n zwei Zeilen.']])
    picture, = list_pictures(folder)
    assert picture.captions == ('Grün, "quer"; \n zwei Zeilen.',)


@pytest.mark.parametrize("mark", ["\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c"])
def test_a_line_ends_at_its_end_and_not_within_a_text(folder, mark):
    """A trap: str.splitlines cuts valid JSON at U+2028, and the line is called no JSON."""
    text = f"First.{mark}Second."
    line = json.dumps({"file_name": "a.png", "caption_0": text}, ensure_ascii=False)
    (folder / "metadata.jsonl").write_bytes(
        f"{line if mark > ' ' else json.dumps(json.loads(line))}\r\n".encode())
    assert list_pictures(folder)[0].captions == (text,)


def test_a_byte_order_mark_is_no_part_of_the_first_line(folder):
    content = (folder / "metadata.jsonl").read_text()
    for encoding in ("utf-8-sig", "utf-16"):
        (folder / "metadata.jsonl").write_text(content, encoding=encoding)
        assert len(list_pictures(folder)) == 4


def test_another_encoding_is_named_with_its_line(folder):
    write(folder, [{"file_name": "a.png", "caption_0": "Fine."},
                   '{"file_name": "b.jpg", "caption_0": "Gr\xfcn."}'])
    content = (folder / "metadata.jsonl").read_text(encoding="utf-8")
    (folder / "metadata.jsonl").write_bytes(content.encode("latin-1"))
    with pytest.raises(ValueError, match="metadata.jsonl, line 2: is not UTF-8 .byte 0xfc.: save"):
        list_pictures(folder)


def test_two_metadata_files_are_one_too_many(folder):
    (folder / "metadata.csv").write_text("file_name,caption_0\na.png,Fine.\n")
    with pytest.raises(ValueError, match="holds metadata.jsonl and metadata.csv: keep the one"):
        list_pictures(folder)


def test_pictures_that_the_metadata_does_not_name_are_named(folder, picture):
    picture(5).save(folder / "forgotten.png")
    with pytest.warns(UserWarning, match="1 pictures are not named .*forgotten.png"):
        assert len(list_pictures(folder)) == 4


def test_names_alone_give_the_order_of_frames(folder):
    write(folder, [{"file_name": name} for name in ("d.bmp", "a.png", "c.webp", "b.jpg")])
    pictures = list_pictures(folder)
    assert [p.file.name for p in pictures] == ["d.bmp", "a.png", "c.webp", "b.jpg"]
    assert not any(p.captions for p in pictures)


def test_the_splits_of_a_column_are_taken_and_others_refused(folder):
    rows = [{"file_name": name, "caption_0": name, "split": split} for name, split in (
        ("a.png", "train"), ("b.jpg", "val"), ("c.webp", "test"), ("d.bmp", "train"))]
    write(folder, rows)
    assert [p.split for p in list_pictures(folder)] == ["train", "validation", "test", "train"]
    write(folder, rows[:3] + [rows[3] | {"split": "later"}])
    with pytest.raises(ValueError, match="line 4: split is 'later', not one of train, val"):
        list_pictures(folder)
    write(folder, rows[:3] + [rows[3] | {"split": None}])
    with pytest.raises(ValueError, match="line 4: has no split, others have"):
        list_pictures(folder)
    write(folder, [*rows, rows[0] | {"split": "test"}])
    with pytest.raises(ValueError, match="line 5: a.png is in test, and in train by .*line 1"):
        list_pictures(folder)


# --- names that lead out of the folder -----------------------------------------------------------

@pytest.fixture
def secret(folder, picture):
    """A picture beside the folder, which nothing in the folder may show."""
    path = folder.parent / f"{folder.name}_secret.png"
    picture(77).save(path)
    yield path
    path.unlink()


@pytest.mark.parametrize("way", ["up", "absolute", "link", "linked folder", "up and back"])
def test_a_name_that_leaves_the_folder_is_refused(folder, secret, way):
    """Somebody else's metadata must not put the user's pictures on a page."""
    (folder / "link.png").symlink_to(secret)
    (folder / "away").symlink_to(folder.parent)
    name = {"up": f"../{secret.name}", "absolute": str(secret), "link": "link.png",
            "linked folder": f"away/{secret.name}", "up and back": f"b/../../{secret.name}"}[way]
    (folder / "b").mkdir()
    write(folder, [{"file_name": "a.png", "caption_0": "x"}, {"file_name": name, "caption_0": "x"}])
    with pytest.raises(ValueError, match=f"line 2: {name} leads out of "):
        list_pictures(folder)


def test_an_absolute_name_is_refused_even_if_it_leads_back(folder):
    write(folder, [{"file_name": str(folder / "a.png"), "caption_0": "x"}])
    with pytest.raises(ValueError, match="line 1: .* leads out of "):
        list_pictures(folder)


@pytest.mark.parametrize("name", ["a\0.png", "a" * 5000, "ring.png", "\ud800.png"])
def test_a_name_that_no_file_can_have_is_refused(folder, name):
    (folder / "ring.png").symlink_to(folder / "ring.png")
    write(folder, [{"file_name": name, "caption_0": "x"}])
    with pytest.raises(ValueError, match="metadata.jsonl, line 1: "):
        list_pictures(folder)


def test_a_picture_in_a_folder_of_the_folder_is_inside(folder, picture):
    (folder / "deep").mkdir()
    picture(3).save(folder / "deep" / "e.png")
    write(folder, [{"file_name": "deep/e.png", "caption_0": "x"}])
    assert [p.file.name for p in list_pictures(folder)] == ["e.png"]


@pytest.mark.parametrize("content", [b"", b"PAR1", b"PAR1" + bytes(40) + b"PAR1", b"\xff" * 99])
def test_a_parquet_file_that_is_none_is_named(folder, content):
    (folder / "metadata.jsonl").unlink()
    (folder / "metadata.parquet").write_bytes(content)
    with pytest.raises(ValueError, match="metadata.parquet: cannot be read as a parquet file"):
        list_pictures(folder)


def test_json_as_deep_as_a_well_is_named(folder):
    (folder / "metadata.jsonl").write_text("[" * 100_000)
    with pytest.raises(ValueError, match="metadata.jsonl, line 1: is not JSON"):
        list_pictures(folder)
