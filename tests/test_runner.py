"""`python -m vlm_utils course`: a table at the end, whatever happens, and pages with titles."""

import os
from pathlib import Path

import nbformat
import pytest

from vlm_utils.course.limits import Limit
from vlm_utils.course.outputs import RECORD
from vlm_utils.course.runner import check_course, run_course, run_lesson
from vlm_utils.profiles import REPOSITORY

LESSONS = {
    "01_dies": ["1", "import os; os._exit(0)"],
    "02_closed": ["import sys\nsys.stdout.close()", "1"],
    "03_torch": ["import torch"],
    "04_callback": ["import ipywidgets\nbutton = ipywidgets.Button()\n"
                    "button.on_click(lambda _: 1 / 0)\nbutton.click()"],
    "05_thread": ["1", "from concurrent.futures import ThreadPoolExecutor\n"
                  "with ThreadPoolExecutor() as pool: future = pool.submit(lambda: 1 / 0)", "1"],
    "07_works": ["import sys\nprint('a', flush=True)\nprint('b')\nprint('c', file=sys.stderr)"],
}


def write(folder: Path, name: str, sources, text="# 07 · *It* works\nAs said.", tags=()) -> Path:
    cells = [nbformat.v4.new_markdown_cell(text),
             *[nbformat.v4.new_code_cell(source) for source in sources]]
    cells[-1].metadata["tags"] = list(tags)
    nbformat.write(nbformat.v4.new_notebook(cells=cells), folder / f"{name}.ipynb")
    return folder / f"{name}.ipynb"


@pytest.fixture(scope="module")
def course(tmp_path_factory):
    """A course most of whose lessons go wrong: what it printed, its folder, and its result."""
    folder, capture = tmp_path_factory.mktemp("course"), pytest.MonkeyPatch()
    (folder / "torch.py").write_text("raise ImportError('libtorch_cpu.so: not for this processor')")
    for name, sources in LESSONS.items():
        write(folder, name, sources, tags=["headline"] if name == "07_works" else ())
    (folder / "06_cut_off.ipynb").write_text('{"cells": [')
    printed = []
    capture.setattr("builtins.print", lambda *words, **_: printed.append(" ".join(words)))
    try:
        failures = run_course(folder, folder / "build")
    finally:
        capture.undo()
    return "\n".join(printed), folder, failures


@pytest.mark.parametrize(("name", "words"), [
    ("01_dies", "cell 2 failed: the kernel died (exit status 0)"),
    ("02_closed", "cell 1 failed: sys.stdout is closed"),
    ("03_torch", "cell 1 failed: ImportError: libtorch_cpu.so: not for this processor"),
    ("04_callback", "cell 1 failed: ZeroDivisionError: division by zero"),
    ("05_thread", "cell 2 failed: after it had ended: an exception in a pool"),
    ("06_cut_off", "NotJSONError"),
])
def test_a_lesson_that_goes_wrong_is_a_row_of_the_table(course, name, words):
    rows = [line for line in course[0].split("\n") if line.startswith(name)]
    assert len(rows) == 1 and words in rows[0]


def test_the_lessons_after_it_still_run(course):
    printed, folder, failures = course
    assert failures == 6
    row = next(line for line in printed.split("\n") if line.startswith("07_works"))
    assert row.split()[1] == "1" and row.endswith("  b") and " s = 1800 x " in row
    assert "not checked: what 9 of 9 cells print, against what is stored" in printed


def test_a_page_has_the_title_of_its_lesson(course):
    page = (course[1] / "build" / "07_works.html").read_text(encoding="utf-8")
    assert "<title>07 · It works</title>" in page


def test_outputs_are_stored_as_one_piece_a_stream_and_the_lesson_itself_stays_as_it_was(course):
    cell = nbformat.read(course[1] / "build" / "07_works.ipynb", as_version=4).cells[1]
    assert sorted((out.name, out.text) for out in cell.outputs) == [
        ("stderr", "c\n"), ("stdout", "a\nb\n")]
    assert cell.execution_count == 1
    assert nbformat.read(course[1] / "07_works.ipynb", as_version=4).cells[1].outputs == []


def test_a_cell_out_of_time_is_a_fault_and_the_cells_after_it_are_not_run(tmp_path):
    path = write(tmp_path, "01_slow", [
        "import time\ntry: time.sleep(600)\nexcept KeyboardInterrupt: print('saved')", "1"])
    lesson = run_lesson(path, tmp_path, limit=Limit(1))
    assert lesson.fault() == "cell 1 failed: it took longer than it may: 1 s"
    assert path.is_file(), "an output folder may be the notebook's own"
    assert [cell.result for cell in lesson.cells] == ["failed", "not run"]


def test_a_kernel_that_does_not_start_is_a_fault(tmp_path, monkeypatch):
    monkeypatch.setattr("vlm_utils.course.kernel.LessonKernelManager.before", ("no-such-command",))
    lesson = run_lesson(write(tmp_path, "01_any", ["1"]), tmp_path)
    assert "no-such-command" in lesson.fault()


@pytest.mark.skipif(os.name != "posix", reason="a folder that cannot be written to")
def test_a_page_that_cannot_be_written_is_a_fault(tmp_path):
    path = write(tmp_path, "01_any", ["1"])
    lesson = run_lesson(path, tmp_path / "gone")
    assert "FileNotFoundError" in lesson.fault()


def test_a_lesson_is_stored_only_if_all_of_it_is_good(tmp_path):
    good = write(tmp_path, "01_good", ["print(1)"])
    bad = write(tmp_path, "02_bad", ["print(1)", "1 / 0"])
    run_lesson(good, tmp_path / "..", write=True)
    run_lesson(bad, tmp_path / "..", write=True)
    assert nbformat.read(good, as_version=4).cells[1].outputs[0].text == "1\n"
    assert nbformat.read(bad, as_version=4).cells[1].outputs == []


def test_the_course_ends_with_a_site_of_this_run(tmp_path, monkeypatch, capsys):
    """Where one can be built: else, or if that fails, there is a page of each lesson."""
    folder, asked = tmp_path / "notebooks", []
    folder.mkdir()
    write(folder, "01_good", ["1"])
    monkeypatch.setattr("vlm_utils.course.runner.why_not", lambda folder: "")
    monkeypatch.setattr("vlm_utils.course.runner.build_site", lambda *words: asked.append(words))
    assert run_course(folder, tmp_path / "out") == 0
    (lessons, target, executed, measured), = asked
    assert (lessons, target) == (folder, tmp_path / "out" / "site")
    assert executed["01_good"].is_file() and "<td>01_good</td>" in measured
    assert not (tmp_path / "out" / "01_good.html").exists()
    assert "index.html" in capsys.readouterr().out

    def fails(*words):
        raise RuntimeError("Sphinx could not")
    monkeypatch.setattr("vlm_utils.course.runner.build_site", fails)
    assert run_course(folder, tmp_path / "out") == 1
    assert (tmp_path / "out" / "01_good.html").is_file()
    assert "could not be built: RuntimeError: Sphinx could not" in capsys.readouterr().out


# --- check -------------------------------------------------------------------------------------

def test_a_lesson_that_is_not_there_is_not_silently_left_out():
    with pytest.raises(ValueError, match="no lesson '99': there are .*03_collate"):
        check_course(REPOSITORY / "notebooks", REPOSITORY / "build", ["99"])


def test_check_runs_the_chosen_lessons_and_leaves_a_page_and_a_junit_file(tmp_path):
    folder = tmp_path / "notebooks"
    folder.mkdir()
    write(folder, "01_one", ["1"])
    write(folder, "02_two", ["1 / 0"])
    assert check_course(folder, tmp_path / "out", ["01"]) == 0
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "check.html", "check.xml", RECORD}
    assert check_course(folder, tmp_path / "out") != 0
