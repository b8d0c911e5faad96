"""`python -m vlm_utils progress`: which exercises pass, from notebooks as students leave them."""

import ast
import contextlib
import re
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nbformat
import pytest

from vlm_utils import __main__ as command
from vlm_utils.check.attempt import run_attempt
from vlm_utils.course.exercises import SOLUTION, STUB, exercises
from vlm_utils.course.progress import defines, needed, progress, state_of
from vlm_utils.profiles import REPOSITORY

PATIENCE = 600      # seconds for an attempt, on however busy a machine
BY_NAME = {exercise.name: exercise for exercise in exercises()}
INTERLEAVE, FIT, WILSON = BY_NAME["interleave"], BY_NAME["images_that_fit"], BY_NAME["wilson"]


def text_of(exercise) -> str:
    return exercise.solution.read_text(encoding="utf-8")


def write(folder: Path, name: str, *cells, tags: dict[int, str] | None = None) -> Path:
    """A notebook of these code cells; tags: of a cell, by its number from 0."""
    notebook = nbformat.v4.new_notebook(cells=[
        nbformat.v4.new_code_cell(source, metadata={"tags": [(tags or {})[i]]} if i in (tags or {})
                                  else {}) for i, source in enumerate(cells)])
    path = folder / f"{name}.ipynb"
    nbformat.write(notebook, path)
    return path


def state(exercise, folder: Path, limit: float = PATIENCE) -> str:
    return str(state_of(exercise, folder, limit))


def content(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture
def in_this_process(monkeypatch):
    """Attempts run in this process, which has loaded what they need: for tests of what is run, not
    of where."""
    def run(arguments, *, cwd, **_):
        assert arguments[:3] == [sys.executable, "-m", "vlm_utils.check.attempt"]
        with contextlib.chdir(cwd):
            run_attempt(*arguments[3:])
        return subprocess.CompletedProcess(arguments, 0)
    monkeypatch.setattr(subprocess, "run", run)


# --- what it says ------------------------------------------------------------------------------

def test_a_line_for_each_exercise_and_a_count(tmp_path, capsys):
    nested = (REPOSITORY / "tests" / "mistakes" / "01_1_interleave" / "nested.py").read_text()
    write(tmp_path, "01_architecture", nested, BY_NAME["merge_images"].stub, text_of(FIT),
          FIT.loading_cell, tags={0: STUB, 1: STUB, 2: STUB, 3: SOLUTION})
    before = content(tmp_path)
    assert progress(tmp_path, PATIENCE) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[:-2]] == [exercise.stem for exercise in exercises()]
    assert re.match(r"01_1_interleave +not yet: block 2 went into block 1", lines[0])
    assert re.match(r"01_2_merge_images +not attempted yet$", lines[1])
    assert re.match(r"01_3_images_that_fit +passed$", lines[2])
    assert all("not attempted yet (no notebook " in line for line in lines[3:-2])
    assert lines[-2:] == ["", "1 of 30 exercises pass"]
    assert content(tmp_path) == before


def test_nothing_is_attempted_in_the_lessons_as_they_are(capsys):
    assert progress(REPOSITORY / "notebooks") == 0
    out = capsys.readouterr().out
    assert len(re.findall(r"^\S+ +not attempted yet$", out, re.M)) == len(exercises())
    assert out.endswith("0 of 30 exercises pass\n")


def test_the_command_takes_a_folder_and_one_that_is_not_there_is_named(tmp_path, monkeypatch,
                                                                       capsys):
    words = ["-m", "vlm_utils", "progress", "--notebooks"]
    done = subprocess.run([sys.executable, *words, str(tmp_path)], capture_output=True, text=True,
                          cwd=REPOSITORY)
    assert done.returncode == 0 and "0 of 30 exercises pass" in done.stdout
    assert f"not attempted yet (no notebook 01_*.ipynb in {tmp_path})" in done.stdout
    monkeypatch.setattr("sys.argv", [*words[1:], str(tmp_path / "gone")])
    with pytest.raises(SystemExit) as ended:
        command.main()
    assert ended.value.code == 2
    assert "gone is not a folder: name the one that" in capsys.readouterr().err


# --- which cells count -------------------------------------------------------------------------

def test_a_loaded_solution_is_not_an_attempt(tmp_path):
    marker = INTERLEAVE.loading_cell.split("\n")[1]
    for cells, tags in [
            # below the stub, in the cell tagged for it
            ([INTERLEAVE.stub, f"{marker}\n{text_of(INTERLEAVE)}"], {0: STUB, 1: SOLUTION}),
            # over the stub, as the lessons had it at first
            ([f"{marker}\n{text_of(INTERLEAVE)}"], {})]:
        write(tmp_path, "01_architecture", *cells, tags=tags)
        assert state(INTERLEAVE, tmp_path) == "not attempted yet (its solution is loaded)"


def test_an_attempt_counts_under_a_marker_and_beside_a_loaded_solution(tmp_path, in_this_process):
    marker = INTERLEAVE.loading_cell.split("\n")[1]
    wrong = INTERLEAVE.stub.replace("raise NotImplementedError", "return prompt")
    own = text_of(INTERLEAVE).replace("others", "rest")
    write(tmp_path, "01_architecture", f"{marker}\n{own}")
    assert state(INTERLEAVE, tmp_path) == "passed"
    write(tmp_path, "01_architecture", wrong, f"{marker}\n{text_of(INTERLEAVE)}",
          tags={0: STUB, 1: SOLUTION})
    assert state(INTERLEAVE, tmp_path).startswith("not yet: the prompt is as it was")


def test_the_best_attempt_counts_in_whatever_cell_or_copy_it_is(tmp_path, in_this_process):
    wrong = "def images_that_fit(*sizes):\n    return 7"
    write(tmp_path, "01_architecture", FIT.stub, text_of(FIT), wrong, tags={0: STUB})
    assert state(FIT, tmp_path) == "passed"
    write(tmp_path, "01_architecture", FIT.stub)
    write(tmp_path, "01_architecture-Copy1", wrong)
    assert state(FIT, tmp_path).startswith("not yet: the result differs")


def test_only_what_the_function_needs_is_run(tmp_path, in_this_process):
    """Its imports and helpers from wherever they are; no trial, no other cell."""
    write(tmp_path, "05_evaluation",
          "import math as m\nfrom pathlib import Path\nPath('spoilt').touch()\nraise SystemExit",
          "%matplotlib inline\n!ls\nZ = 2\nshare = model(dataset)",
          "%%time\ndef wilson(correct, total, z):\n"
          "    share = correct / total\n    low, high = bounds(share, total, z)\n"
          "    return low, high\n\nprint(wilson(undefined, 1, 2))",
          "def bounds(p, n, z):\n    shrink = 1 + z**Z / n\n"
          "    centre = (p + z**Z / (2 * n)) / shrink\n"
          "    half = z / shrink * m.sqrt(p * (1 - p) / n + z**Z / (4 * n**2))\n"
          "    return centre - half, centre + half",
          "def broken(:\n    pass")
    before = content(tmp_path)
    assert state(WILSON, tmp_path) == "passed"
    assert content(tmp_path) == before
    cells = [cell.source for cell in nbformat.read(tmp_path / "05_evaluation.ipynb", 4).cells]
    code = needed("wilson", cells, 2)
    assert re.findall(r"^(?:def|import|from|\w+ =) ?\w*", code, re.M) == [
        "import math", "Z = 2", "def wilson", "def bounds"]


def test_a_name_from_this_cell_comes_before_one_above_and_that_before_one_below():
    cells = ["x = 1", "x = 2", "def f():\n    return x", "x = 3"]
    assert "x = 2" in needed("f", cells, 2) and "x = 1" not in needed("f", cells, 2)
    cells[2] = "x = 4\n" + cells[2]
    assert needed("f", cells, 2).startswith("x = 4") and "x = 2" not in needed("f", cells, 2)
    assert "x = 3" in needed("f", ["def f():\n    return x", "x = 3"], 0)


# --- what goes wrong ---------------------------------------------------------------------------

def test_a_syntax_error_is_told_with_its_line(tmp_path):
    write(tmp_path, "01_architecture", "def images_that_fit(positions, image_size)\n    return 1")
    assert re.match(r"not yet: SyntaxError: .* in line 1$", state(FIT, tmp_path))


def test_a_loop_without_an_end_is_stopped(tmp_path):
    write(tmp_path, "01_architecture",
          "def images_that_fit(*sizes):\n    while True:\n        print('still here')")
    assert state(FIT, tmp_path, limit=5) == "not yet: stopped after 5 s: does a loop never end?"


def test_a_process_that_ends_takes_nothing_with_it(tmp_path):
    write(tmp_path, "01_architecture",
          "import os\n\ndef images_that_fit(*sizes):\n    os._exit(3)",
          "def interleave(prompt, blocks):\n    raise SystemExit")
    assert "ended without a verdict (exit status 3)" in state(FIT, tmp_path)
    assert "not yet: your function raised SystemExit" in state(INTERLEAVE, tmp_path)


def test_a_name_that_nothing_defines_is_told(tmp_path, in_this_process):
    write(tmp_path, "01_architecture", "@memoised\ndef images_that_fit(*sizes):\n    return 1")
    assert state(FIT, tmp_path) == "not yet: NameError: name 'memoised' is not defined"


def test_missing_cells_and_unreadable_notebooks_are_told(tmp_path, in_this_process):
    path = write(tmp_path, "01_architecture", "1 + 1")
    assert state(FIT, tmp_path) == "not attempted yet (no cell defines it)"
    path.write_text(path.read_text()[:100])
    assert state(FIT, tmp_path).startswith("not yet: 01_architecture.ipynb cannot be read (")
    write(tmp_path, "01_architecture-Copy1", text_of(FIT))
    assert state(FIT, tmp_path) == "passed"


def test_one_thread_parses_at_a_time(monkeypatch):
    """A trap: Python 3.11 raises SystemError for two that do so at once, now and then."""
    busy, met, whole = threading.Lock(), [], ast.parse

    def alone(source):
        met.append(not busy.acquire(blocking=False))
        time.sleep(0.005)
        if not met[-1]:
            busy.release()
        return whole(source)
    monkeypatch.setattr(ast, "parse", alone)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda name: defines(f"def {name}(): pass", name), "abcdefgh"))
    assert found == [True] * 8 and len(met) == 8 and not any(met)
