"""benchmarks/further_places.py: each place asked about once, and places that no table holds."""

import json

import pytest
from long_series import few_places

from vlm_utils.profiles import REPOSITORY, data_folder


@pytest.fixture
def further_places(monkeypatch):
    monkeypatch.syspath_prepend(str(REPOSITORY / "benchmarks"))
    import further_places
    return further_places


@pytest.mark.parametrize(("frames", "places"), [(4, 12), (8, 12), (12, 6), (16, 6)])
def test_each_place_of_so_many_frames_is_asked_about_once(further_places, frames, places):
    table = few_places()
    asked = further_places.one_of_each_place(table, frames)
    sites = [{table.truth.site_of(row) for row in recipe.rows} for recipe in asked.recipes]
    assert all(len(site) == 1 for site in sites) and len(asked) == places
    assert len(set().union(*sites)) == places
    assert {recipe.num_images for recipe in asked.recipes} == {frames}


def test_the_command_tells_the_rows_and_writes_them(further_places, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(further_places, "more_series", lambda places, split: few_places())
    monkeypatch.setattr("sys.argv", ["further_places.py", "--places", "9",
                                     "--output", str(tmp_path / "x.json")])
    further_places.main()
    written = json.loads((tmp_path / "x.json").read_text())
    assert written == json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert [(row["num_images"], row["samples"]) for row in written["rows"]] == [
        (8, 12), (12, 6), (16, 6)]
    assert written["model"] == "tiny_vlm_time" and written["places"] == 9


def test_too_few_places_and_a_folder_without_a_model_are_said(further_places, monkeypatch, capsys):
    monkeypatch.setattr(further_places, "more_series", lambda places, split: few_places(long=0))
    with pytest.raises(ValueError, match="none of 3 places has 8 frames: give more --places"):
        further_places.measure(*further_places.load_checkpoint(data_folder() / "tiny_vlm_time"), 3)
    monkeypatch.setattr("sys.argv", ["further_places.py", "--model", "nowhere"])
    with pytest.raises(SystemExit):
        further_places.main()
    assert "nowhere holds no model" in capsys.readouterr().err


def test_the_readme_tells_the_stored_figures():
    folder = REPOSITORY / "benchmarks"
    rows = json.loads((folder / "further_places.json").read_text())["rows"]
    lines = (folder / "README.md").read_text().splitlines()
    for row in rows:
        begins = (f"| {row['num_images']} | {row['samples']:,} | {100 * row['accuracy']:.1f} "
                  f"({100 * row['low']:.1f} to {100 * row['high']:.1f}) |")
        assert any(line.startswith(begins) for line in lines), begins
