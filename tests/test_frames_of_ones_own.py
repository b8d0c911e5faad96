"""Lesson 07's section on your own frames, cell by cell, with all that VLM_IMAGES may name."""

import json

import nbformat
import pytest
from clips import write_animation, write_video
from pictures import noise

from vlm_utils import plots
from vlm_utils.architecture import MultiImageVLM
from vlm_utils.datasets import load_series_table
from vlm_utils.loading import load_checkpoint
from vlm_utils.profiles import REPOSITORY, data_folder, get_profile
from vlm_utils.time_series import choose_frames

LESSON = REPOSITORY / "notebooks" / "07_time_series.ipynb"
pytestmark = pytest.mark.filterwarnings("ignore:.*16 frames were asked for")


def cells_of_the_section() -> list[str]:
    """The code between "## 9." and the next heading."""
    cells = nbformat.read(LESSON, as_version=4).cells
    first = next(k for k, cell in enumerate(cells) if "## 9. Your own frames" in cell.source)
    last = next(k for k, cell in enumerate(cells) if k > first and "\n### " in cell.source)
    found = [cell.source for cell in cells[first:last] if cell.cell_type == "code"]
    assert len(found) == 3
    return found


@pytest.fixture(scope="module")
def lesson():
    """What the section takes from the cells above it."""
    model, processor = load_checkpoint(data_folder() / "tiny_vlm_time")
    table = load_series_table("test")
    rows = next(rows for rows in table.truth.sites if len(rows) == 8)
    return {"profile": get_profile("tiny"), "model": model, "processor": processor, "table": table,
            "rows": rows, "choose_frames": choose_frames}


def run(lesson: dict, monkeypatch, capsys) -> dict:
    """The names that the section's cells leave, with every figure and what was printed last."""
    figures = []
    monkeypatch.setattr(plots, "show", lambda figure, text: figures.append((figure, text)))
    names = lesson | {"show": plots.show}
    for source in cells_of_the_section():
        exec(compile(source, str(LESSON), "exec"), names)
    return names | {"figures": figures, "said": capsys.readouterr().out.splitlines()[-1]}


def write_photos(path):
    path.mkdir()
    rows = [{"file_name": f"{k}.png", "caption_0": f"A photograph of thing {k}."}
            for k in range(24)]
    for k, row in enumerate(rows):
        noise(k).save(path / row["file_name"])
    (path / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return path


def write_classes(path):
    for number in range(3):
        (path / f"class_{number}").mkdir(parents=True)
        for k in range(8):
            noise(10 * number + k).save(path / f"class_{number}" / f"{k}.png")
    return path


def write_dated(path, count):
    path.mkdir()
    for k in range(count):
        noise(k).save(path / f"{2000 + k}-06-15.png")
    return path


def write_clips(path):
    path.mkdir()
    for name, count in (("short", 4), ("long", 9)):
        write_animation(path / f"{name}.gif", [100] * count)
    return path


def write_mp4(path):
    pytest.importorskip("av", reason="PyAV is not installed: python -m pip install av")
    return write_video(path.with_suffix(".mp4"), range(0, 4000, 40))


@pytest.mark.parametrize("write", [write_photos, write_classes])
def test_where_nothing_is_seen_twice_the_lesson_takes_its_own_place(
        lesson, monkeypatch, capsys, tmp_path, write):
    """A trap: the longest of many places with one picture each has no neighbouring frames."""
    monkeypatch.setenv("VLM_IMAGES", str(write(tmp_path / "mine")))
    found = run(lesson, monkeypatch, capsys)
    assert found["own"] is lesson["table"] and found["place"] == list(lesson["rows"])
    assert len(found["shown"]) == 8 and len(found["figures"]) == 1


@pytest.mark.parametrize(("write", "labels"), [
    (lambda path: write_dated(path, 5), [f"{2000 + k}-06-15" for k in range(5)]),
    (write_clips, [f"frame {k}" for k in range(1, 10)]),            # the longer one
    (lambda path: write_animation(path.with_suffix(".gif"), [100] * 6),
     [f"frame {k}" for k in range(1, 7)]),
    (write_mp4, [f"frame {k}" for k in range(1, 17)])])
def test_frames_of_ones_own_are_compared_and_asked_about(
        lesson, monkeypatch, capsys, tmp_path, write, labels):
    monkeypatch.setenv("VLM_IMAGES", str(write(tmp_path / "mine")))
    found = run(lesson, monkeypatch, capsys)
    assert found["own"] is not lesson["table"] and found["labels"] == labels
    assert found["changed"].shape[0] == len(labels) - 1
    assert found["said"].strip()
    figure, text = found["figures"][0]
    assert {axis.get_title() for axis in figure.axes} >= set(labels) and text


def test_of_a_long_series_the_frames_are_spread_over_all_of_it(
        lesson, monkeypatch, capsys, tmp_path):
    """A trap: the first sixteen of a hundred frames miss nearly all that happens."""
    monkeypatch.setenv("VLM_IMAGES", str(write_dated(tmp_path / "mine", 24)))
    years = [int(label[:4]) for label in run(lesson, monkeypatch, capsys)["labels"]]
    assert len(years) == 16 == lesson["processor"].max_images
    assert years == sorted(set(years)) and years[0] <= 2001 and years[-1] >= 2022


def test_without_pictures_of_ones_own_the_place_is_the_one_from_above(lesson, monkeypatch, capsys):
    found = run(lesson, monkeypatch, capsys)
    assert found["own"] is lesson["table"] and len(found["shown"]) == 8
    assert found["labels"][0] == lesson["table"].truth.dates[lesson["rows"][0]]


def test_only_the_frames_that_are_shown_are_encoded(lesson, monkeypatch, capsys):
    """A trap: at real size, encoding a whole table for one figure takes half an hour on a CPU."""
    encoded, encode = [], MultiImageVLM.encode_images

    def counting(model, pixel_values):
        encoded.append(len(pixel_values))
        return encode(model, pixel_values)

    monkeypatch.setattr(MultiImageVLM, "encode_images", counting)
    found = run(lesson, monkeypatch, capsys)
    assert encoded == [len(found["shown"])] * 2         # for the map, and for the answer
