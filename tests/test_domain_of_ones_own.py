"""Lesson 09's sections on a new domain and on your own folder, cell by cell, on several folders."""

import json
import tempfile
from contextlib import nullcontext

import nbformat
import pandas as pd
import pytest
from pictures import noise
from PIL import Image

from vlm_utils import plots
from vlm_utils.datasets import load_image_table, load_profile_table, load_series_table
from vlm_utils.loading import load_checkpoint
from vlm_utils.profiles import REPOSITORY, data_folder, get_profile

LESSON = REPOSITORY / "notebooks" / "09_real_data.ipynb"
ARMS = {"before", "frozen", "frozen, nothing kept", "all layers", "pretrained", "two paths"}


def cells_of_the_sections() -> list[str]:
    """The code from "## 4." on."""
    cells = nbformat.read(LESSON, as_version=4).cells
    first = next(k for k, cell in enumerate(cells) if "## 4. A new domain" in cell.source)
    return [cell.source for cell in cells[first:] if cell.cell_type == "code"]


def run(monkeypatch, **more) -> dict:
    """The names that the cells leave; a table at a cell's end is not shown."""
    figures = []
    monkeypatch.setattr(plots, "show", lambda figure, text: figures.append(text))
    monkeypatch.setenv("VLM_SUBSET", "16")
    names = {"profile": get_profile(), "pd": pd, "Image": Image, "show": plots.show,
             "draw_images": plots.draw_images, "load_checkpoint": load_checkpoint,
             "data_folder": data_folder, "earth": load_series_table("test"),
             "scratch": tempfile.TemporaryDirectory(), "teller": None, "one_for_all": None, **more}
    for source in cells_of_the_sections():
        exec(compile(source, str(LESSON), "exec"), names)
    return names | {"figures": figures}


def write_classes(path):
    for number in range(3):
        (path / f"class_{number}").mkdir(parents=True)
        for k in range(24):
            noise(100 * number + k).save(path / f"class_{number}" / f"{k}.png")


def write_photographs(path):
    path.mkdir()
    rows = [{"file_name": f"{k}.png", "caption_0": f"A photograph of thing {k}."}
            for k in range(40)]
    for k, row in enumerate(rows):
        noise(k).save(path / row["file_name"])
    (path / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))


def write_bare(path):
    path.mkdir()
    for k in range(24):
        noise(k).save(path / f"{k}.png")


@pytest.mark.parametrize("write", [None, write_classes, write_photographs, write_bare])
def test_the_cells_run_on_every_kind_of_folder(monkeypatch, tmp_path, capsys, write):
    """Without captions there is nothing to learn from: then it is the other sensor."""
    if write is not None:
        write(tmp_path / "mine")
        monkeypatch.setenv("VLM_IMAGES", str(tmp_path / "mine"))
    with pytest.warns(UserWarning, match="has no captions") if write is write_bare \
            else nullcontext():
        names = run(monkeypatch)
    own = write in (write_classes, write_photographs)
    assert names["away"].truth.has_scenes != own and names["home"].truth.has_scenes
    assert set(names["questions"]) == ({"select 3"} if own else {"select 3", "refer 1"})
    assert set(names["result"].index) == ARMS == {*names["cures"], "before"}
    printed = capsys.readouterr().out
    assert "equal up to rounding: True" in printed and "right before" in printed
    assert "planted copies found" in printed and len(names["figures"]) == 2


def test_a_profiles_own_images_are_not_those_of_the_user(monkeypatch, tmp_path):
    """A trap: what is kept so that it is not forgotten would be the new images themselves."""
    write_photographs(tmp_path / "mine")
    monkeypatch.setenv("VLM_IMAGES", str(tmp_path / "mine"))
    tiny = get_profile("tiny")
    assert load_image_table(tiny, "test").truth.captions[0][0].startswith("A photograph")
    whole = load_profile_table(tiny, "test")
    assert whole.name == "TinyEarth test" and len(whole) == len(load_series_table("test"))
    assert len(load_profile_table(tiny, "test", 30)) == 30
    monkeypatch.setenv("VLM_SUBSET", "16")
    assert len(load_profile_table(get_profile("tiny"), "test", 30)) == 16
