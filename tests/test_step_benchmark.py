"""benchmarks/step.py runs, and what is stored of it holds what the README says."""

import json
import os
import subprocess
import sys

import pytest

from vlm_utils.profiles import REPOSITORY

FOLDER = REPOSITORY / "benchmarks"


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What the command writes, with tiny shapes and two rows."""
    path = tmp_path_factory.mktemp("step") / "step.json"
    done = subprocess.run(
        [sys.executable, str(FOLDER / "step.py"), "--rounds", "2", "--passes", "2", "--only",
         "plain,clipping", "--output", str(path)], capture_output=True, text=True,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY), "VLM_OUTPUT": str(path.parent)})
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == json.loads(path.read_text())
    return json.loads(path.read_text())


def test_each_row_has_its_rounds_its_losses_and_its_memory(found):
    assert list(found["rows"]) == ["plain", "clipping"]
    for row in found["rows"].values():
        assert len(row["rounds"]) == 2 and row["peak_mb"] > 100
        assert 0 < row["share"] < 1 and row["cpu_seconds"] > 0
        assert len(row["losses"]) == 4              # two passes over two batches


def test_the_losses_of_the_rows_are_equal(found):
    assert found["rows"]["clipping"]["losses_apart"] < 1e-5
    first, *_, last = found["rows"]["plain"]["losses"]
    assert last != first                            # the weights have moved


def test_a_row_that_there_is_not_is_named():
    done = subprocess.run(
        [sys.executable, str(FOLDER / "step.py"), "--only", "plain,fast"], capture_output=True,
        text=True, env=os.environ | {"PYTHONPATH": str(REPOSITORY)})
    assert done.returncode == 2 and "no such row: fast; there are plain, mask" in done.stderr


def test_what_is_stored_was_measured_at_real_shapes_and_the_readme_says_how_far_it_came():
    stored = json.loads((FOLDER / "step.json").read_text(encoding="utf-8"))
    rows = stored["rows"]
    assert stored["settings"]["scale"] == "real" and stored["settings"]["fraction"] == 1
    assert list(rows) == ["plain", "mask", "norms", "gates", "attention", "rows", "embedding",
                          "clipping", "compiled"]
    assert rows[stored["default"]]["share"] > 1.05 * rows["plain"]["share"]
    readme = (FOLDER / "README.md").read_text(encoding="utf-8")
    section = readme.split("## Nearer to the machine's limit")[1].split("\n## ")[0]
    for name, row in rows.items():
        assert f"| {name} | {row['change']} | {100 * row['share']:.1f}" in section
    assert ("goal of 75% is not reached" in section) == (rows[stored["default"]]["share"] < 0.75)
