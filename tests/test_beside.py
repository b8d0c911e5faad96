"""What lies beside a user's pictures: captions in unread files, names as other systems write them.

Every folder here was once read as frames without captions, and training went to TinyEarth without
a word; or it ended in an error of Python's own.
"""

import json
import os
import unicodedata

import pandas as pd
import pytest

from vlm_utils.sources.picture_folders import list_pictures, load_image_folder

ROWS = [{"file_name": f"{i}.png", "caption": f"Thing {i}."} for i in range(6)]


@pytest.fixture
def folder(tmp_path, picture):
    for i in range(6):
        picture(i).save(tmp_path / f"{i}.png")
    return tmp_path


def table(separator=","):
    return "".join(f"{a}{separator}{b}\n" for a, b in [("file_name", "caption"), *(
        (row["file_name"], row["caption"]) for row in ROWS)])


@pytest.mark.parametrize(("name", "text"), [
    ("captions.csv", table()), ("labels.tsv", table("\t")), ("metadata.tsv", table("\t")),
    ("metadata.json", json.dumps(ROWS)), ("Metadata.ndjson", "{}"),
    ("annotations.json", json.dumps({"images": ROWS})),
    ("dataset.jsonl", "\n".join(map(json.dumps, ROWS))),
    ("captions.csv", table().encode("utf-16"))])
def test_captions_in_a_file_that_is_not_read_are_refused(folder, name, text):
    (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ValueError, match=f"{name}: .*metadata.csv, .jsonl or .parquet .* with the "
                                         "columns file_name and caption: write them there, or"):
        list_pictures(folder)


@pytest.mark.parametrize("suffix", ["txt", "caption"])
def test_captions_beside_each_picture_are_refused(folder, suffix):
    for i in range(4):
        (folder / f"{i}.{suffix}").write_text(f"Thing {i}.")
    with pytest.raises(ValueError, match=f"0.{suffix}: texts beside pictures are not read, 4 of"):
        list_pictures(folder)


def test_what_is_no_caption_does_no_harm(folder, recwarn):
    """Boxes of a detector, a credit, a list of dates that names no picture, a folder's settings."""
    for i in range(6):
        (folder / f"{i}.txt").write_text(f"0 0.{i} 0.5 0.1 0.1\n")
    (folder / "README.txt").write_text("Pictures 0.png and 1.png are by me.")
    (folder / "dates.csv").write_text("2019-03,clear\n2019-04,clouds\n")
    (folder / "settings.json").write_text('{"first": "0.png"}')
    assert len(list_pictures(folder)) == 6
    assert [str(each.message) for each in recwarn] == []


def test_a_text_that_names_pictures_is_named(folder):
    (folder / "sums.txt").write_text("abc 0.png\ndef 1.png\n")
    with pytest.warns(UserWarning, match="names pictures in sums.txt, which is not read"):
        assert len(list_pictures(folder)) == 6


@pytest.mark.parametrize("name", ["Metadata.CSV", "METADATA.csv"])
def test_the_case_of_a_metadata_file_does_not_matter(folder, name):
    """Windows and macOS do not tell these names apart: there they were always read."""
    (folder / name).write_text(table())
    assert load_image_folder(folder)["caption_0"][:] == [row["caption"] for row in ROWS]


def classes(tmp_path, picture):
    for k, name in enumerate(("cat", "dog")):
        (tmp_path / name).mkdir()
        for i in range(3):
            picture(10 * k + i).save(tmp_path / name / f"{i}.png")


@pytest.mark.parametrize("where", ["cat/metadata.jsonl", "cat/captions.csv", "captions.csv"])
def test_captions_beside_or_inside_class_folders_are_refused(tmp_path, picture, where):
    """The names of the classes would stand in for what the user wrote of each picture."""
    classes(tmp_path, picture)
    (tmp_path / where).write_text("\n".join(map(json.dumps, ROWS)) if "jsonl" in where
                                  else table())
    with pytest.raises(ValueError, match=f"{where}: "):
        list_pictures(tmp_path)


@pytest.mark.parametrize("name", ["@eaDir", "$RECYCLE.BIN", "lost+found", "__MACOSX",
                                  ".ipynb_checkpoints"])
def test_folders_that_systems_make_are_no_classes(tmp_path, picture, name):
    """A trap: Synology keeps thumbnails in @eaDir, and a class was called so."""
    classes(tmp_path, picture)
    (tmp_path / name).mkdir()
    picture(50).save(tmp_path / name / "thumbnail.png")
    assert {p.captions for p in list_pictures(tmp_path)} == {("cat",), ("dog",)}


def test_names_that_windows_wrote_are_found(tmp_path, picture):
    (tmp_path / "train").mkdir()
    picture(0).save(tmp_path / "train" / "a.png")
    (tmp_path / "metadata.csv").write_text("file_name,caption\ntrain\\a.png,A thing.\n")
    found, = list_pictures(tmp_path)
    assert found.file.name == "a.png" and found.split == "train"


@pytest.mark.parametrize("name", ["..\\..\\secret.png", "train\\..\\..\\secret.png", "C:\\a.png"])
def test_no_name_of_windows_leads_out(tmp_path, picture, name):
    inside = tmp_path / "a" / "b"
    inside.mkdir(parents=True)
    (inside / "train").mkdir()
    for place in (tmp_path, tmp_path / "a"):
        picture(0).save(place / "secret.png")
    (inside / "metadata.jsonl").write_text(json.dumps({"file_name": name, "caption": "A thing."}))
    with pytest.raises(ValueError, match="line 1: .*(leads out of|is not in)"):
        list_pictures(inside)


@pytest.mark.parametrize(("on_disk", "named"), [("NFD", "NFC"), ("NFC", "NFD")])
def test_accents_may_be_composed_in_either_way(tmp_path, picture, on_disk, named):
    """A trap: an archive from macOS has é as two characters, and its metadata as one."""
    picture(0).save(tmp_path / unicodedata.normalize(on_disk, "café.png"))
    (tmp_path / "metadata.jsonl").write_text(json.dumps(
        {"file_name": unicodedata.normalize(named, "café.png"), "caption": "A café."}))
    assert [p.captions for p in list_pictures(tmp_path)] == [("A café.",)]


def test_a_name_in_other_letters_is_refused_with_the_one_that_is_there(folder):
    (folder / "metadata.csv").write_text("file_name,caption\n0.PNG,A thing.\n")
    if (folder / "0.PNG").exists():
        pytest.skip("this disk does not tell small letters from large ones")
    with pytest.raises(ValueError, match="0.PNG, which is not in .*; there is 0.png: large and"):
        list_pictures(folder)


@pytest.mark.skipif(os.name != "posix", reason="elsewhere a name is always Unicode")
def test_a_name_that_is_not_unicode_is_named(folder):
    os.rename(folder / "0.png", os.fsencode(folder) + b"/\xff.png")
    with pytest.raises(ValueError, match="udcff.png': its name is not UTF-8 .*: rename it"):
        load_image_folder(folder)


def test_a_second_column_of_texts_is_not_dropped_without_a_word(folder):
    rows = pd.DataFrame([row | {"text": "Another."} for row in ROWS])
    rows.to_csv(folder / "metadata.csv", index=False)
    with pytest.warns(UserWarning, match="the column text is not read, because caption is there"):
        assert list_pictures(folder)[0].captions == ("Thing 0.",)


@pytest.mark.parametrize("nothing", ["\u200b\ufeff", "\u2060", "\0", "\u00a0\u3000"])
def test_a_caption_of_signs_that_nobody_sees_is_empty(folder, nothing):
    rows = [ROWS[0] | {"caption": nothing}, *ROWS[1:]]
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(ValueError, match="line 1, caption: is empty or white space"):
        list_pictures(folder)


def test_spaces_after_the_comma_are_no_part_of_a_caption(folder):
    (folder / "metadata.csv").write_text(table(", "))
    assert list_pictures(folder)[2].captions == ("Thing 2.",)
