"""The notebooks as files: executed, tidy, and showing the package's own source."""

import re
import shutil
from pathlib import Path

import nbformat
import pytest

from vlm_utils import notebooks

FOLDER = Path(__file__).resolve().parents[1] / "notebooks"
LESSONS = notebooks.lessons(FOLDER)
NAMES = ["01_architecture", "02_datasets", "03_collate", "04_training", "05_evaluation",
         "06_memory_cleanup"]


def read(path):
    return nbformat.read(path, as_version=4)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def faults(path: Path) -> list[str]:
    """Everything that is wrong with a notebook as a file."""
    notebook, found = read(path), []
    cells = code_cells(notebook)
    if [cell.execution_count for cell in cells] != list(range(1, len(cells) + 1)):
        found.append("not executed from top to bottom")
    figures = 0
    for number, cell in enumerate(cells, start=1):
        tags = cell.metadata.get("tags", [])
        lines = cell.source.split("\n")
        marked = notebooks.marked_source(cell.source, path.parent)
        if marked is None and (len(lines) > 25 or max(map(len, lines)) > 76):
            found.append(f"cell {number} is too long or too wide")
        if marked is not None and marked != cell.source:
            found.append(f"cell {number} differs from its module: run `make notebooks`")
        for out in cell.outputs:
            text = out.get("text", "") + str(out.get("data", {}).get("text/plain", ""))
            if out.output_type == "error" and "raises-exception" not in tags:
                found.append(f"cell {number} stores an error")
            if out.output_type == "stream" and out.name == "stderr":
                found.append(f"cell {number} stores a warning or progress: {out.text[:80]}")
            if re.search(r"\d+%\|", text):
                found.append(f"cell {number} stores a progress bar")
            if "image/png" in out.get("data", {}):
                figures += 1
                if not out.metadata.get("image/png", {}).get("alt"):
                    found.append(f"cell {number} has a figure without alternative text")
    if figures < 2:
        found.append(f"{figures} figures, at least two are wanted")
    if not any("headline" in cell.metadata.get("tags", []) for cell in cells):
        found.append("no headline")
    if sum("nbval-check-output" in cell.metadata.get("tags", []) for cell in cells) < 1:
        found.append("no output is compared")
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            for link in re.findall(r"\]\(([^)#:]+)\)", cell.source):
                if not (path.parent / link).exists():
                    found.append(f"a link to {link}, which is not there")
    if path.stat().st_size > 1_500_000:
        found.append("larger than 1.5 MB")
    return found


def test_the_six_lessons_are_there_and_each_has_its_module():
    assert [path.stem for path in LESSONS] == NAMES
    for name in NAMES:
        module = "memory" if name.startswith("06") else name[3:]
        assert (FOLDER.parent / "vlm_utils" / f"{module}.py").is_file()


@pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)
def test_lesson_is_tidy(path):
    assert faults(path) == []


@pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)
def test_lesson_begins_with_the_profile_and_ends_with_what_is_known(path):
    notebook = read(path)
    assert "announce(profile)" in code_cells(notebook)[0].source
    assert "profile:" in code_cells(notebook)[0].outputs[0].text
    assert "What you now know" in notebook.cells[-1].source
    for promise in ("You will build", "Before:", "Time:", "Peak memory:"):
        assert promise in notebook.cells[0].source


def planted(tmp_path, change):
    """A copy of lesson 03 beside the package, with one fault; what the checks say of it."""
    folder = tmp_path / "notebooks"
    shutil.copytree(FOLDER, folder)
    (tmp_path / "vlm_utils").symlink_to(FOLDER.parent / "vlm_utils")
    path = folder / "03_collate.ipynb"
    notebook = read(path)
    change(notebook)
    nbformat.write(notebook, path)
    return " ".join(faults(path))


def marked_cell(notebook):
    return next(c for c in code_cells(notebook) if c.source.startswith("# %load -s"))


def figure(notebook):
    return next(out for cell in code_cells(notebook) for out in cell.outputs
                if "image/png" in out.get("data", {}))


FAULTS = {
    "not executed": lambda n: code_cells(n)[2].update(execution_count=None),
    "differs from its module": lambda n: marked_cell(n).update(
        source=marked_cell(n).source.replace("left", "right", 1)),
    "too long": lambda n: code_cells(n)[0].update(source="x = 1\n" * 30),
    "alternative text": lambda n: figure(n).metadata.clear(),
    "progress": lambda n: code_cells(n)[0].outputs.append(
        nbformat.v4.new_output("stream", name="stderr", text=" 50%|###  | 1/2")),
    "stores an error": lambda n: code_cells(n)[0].outputs.append(
        nbformat.v4.new_output("error", ename="E", evalue="", traceback=[])),
    "which is not there": lambda n: n.cells[0].update(source="[next](99_nowhere.ipynb)"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_found(tmp_path, fault):
    assert fault in planted(tmp_path, FAULTS[fault])


def test_progress_is_stripped_and_other_output_kept():
    cell = nbformat.v4.new_code_cell("x", outputs=[
        nbformat.v4.new_output("stream", name="stderr", text="encoding: 100%|###| 3/3"),
        nbformat.v4.new_output("stream", name="stdout", text="kept: 100%"),
        nbformat.v4.new_output("display_data", {
            "application/vnd.jupyter.widget-view+json": {"model_id": "1"},
            "text/plain": "  0%|          | 0/6 [00:00<?, ?step/s]"})])
    notebook = nbformat.v4.new_notebook(cells=[cell])
    notebooks.strip_progress(notebook)
    assert [out.text for out in cell.outputs] == ["kept: 100%"]


def test_a_marked_cell_names_a_definition_that_is_there():
    with pytest.raises(ValueError, match="defines no nothing"):
        notebooks.marked_source("# %load -s nothing ../vlm_utils/collate.py", FOLDER)


def test_a_lesson_that_fails_is_reported_with_its_cell(tmp_path):
    notebook = nbformat.v4.new_notebook(cells=[
        nbformat.v4.new_code_cell("x = 1"), nbformat.v4.new_code_cell("1 / 0")])
    path = tmp_path / "01_broken.ipynb"
    nbformat.write(notebook, path)
    result = notebooks.run_lesson(path, tmp_path)
    assert result.error.startswith("cell 1: ZeroDivisionError")
    assert (tmp_path / "01_broken.html").is_file()


def test_html_keeps_the_alternative_text(tmp_path):
    html = notebooks.to_html(read(FOLDER / "01_architecture.ipynb"))
    assert 'alt="Three images of the test split, side by side."' in html
