"""The notebooks as files: executed, tidy, and showing the package's own source."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from tqdm import tqdm

from vlm_utils.course.cells import (
    lessons,
    marked_source,
    merge_streams,
    strip_progress,
    title,
    to_html,
)
from vlm_utils.course.lint import broken_links, faults, repeated_numbers
from vlm_utils.course.prose import turns_of_phrase

FOLDER = Path(__file__).resolve().parents[1] / "notebooks"
LESSONS = lessons(FOLDER)
NAMES = ["01_architecture", "02_datasets", "03_collate", "04_training", "05_evaluation",
         "06_memory_cleanup", "07_time_series", "08_cross_attention", "09_real_data",
         "10_scaling_out"]
ROOMS = {"06": "memory", "10": "scaling"}       # of lessons whose room has a shorter name


def read(path):
    return nbformat.read(path, as_version=4)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def test_all_lessons_are_there_and_each_has_its_room():
    assert [path.stem for path in LESSONS] == NAMES
    for name in NAMES:
        room = FOLDER.parent / "vlm_utils" / ROOMS.get(name[:2], name[3:])
        assert (room / "__init__.py").is_file() or room.with_suffix(".py").is_file()


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


def compared_cell(notebook):
    return next(c for c in code_cells(notebook)
                if "nbval-check-output" in c.metadata.get("tags", []))


def prose(text):
    return lambda n: n.cells.insert(1, nbformat.v4.new_markdown_cell(text))


def prints(text, name="stdout"):
    return lambda n: code_cells(n)[0].outputs.append(
        nbformat.v4.new_output("stream", name=name, text=text))


def widget_view(text, model="0"):
    view = {"model_id": model, "version_major": 2, "version_minor": 0}
    return lambda n: code_cells(n)[0].outputs.append(nbformat.v4.new_output(
        "display_data", {"application/vnd.jupyter.widget-view+json": view, "text/plain": text}))


def with_state(notebook):
    """A widget that brings its state along, as JupyterLab stores it if asked to."""
    widget_view("IntSlider(value=3)", "kept")(notebook)
    notebook.metadata.widgets = {"application/vnd.jupyter.widget-state+json": {
        "state": {"kept": {}}, "version_major": 2, "version_minor": 0}}


def explorer(notebook):
    code_cells(notebook)[0].source += "\nExplorer(model, processor, data).show()"
    widget_view("VBox(children=(HBox(), Textarea()))")(notebook)


def take_tag(tag):
    def take(notebook):
        for cell in code_cells(notebook):
            cell.metadata["tags"] = [t for t in cell.metadata.get("tags", []) if t != tag]
    return take


def with_image_tag(notebook):
    notebook.cells.insert(1, nbformat.v4.new_markdown_cell('<img src="pictures/architecture.png">'))


FAULTS = [
    ("not executed", lambda n: code_cells(n)[2].update(execution_count=None)),
    ("not executed", lambda n: n.cells.remove(code_cells(n)[2])),
    ("differs from its module", lambda n: marked_cell(n).update(
        source=marked_cell(n).source.replace("missing", "absent", 1))),
    ("cell 1 is too long: 31 lines", lambda n: code_cells(n)[0].update(source="x = 1\n" * 30)),
    ("cell 1 is too wide: 80 columns", lambda n: code_cells(n)[0].update(source="x" * 80)),
    ("without alternative text", lambda n: figure(n).metadata.clear()),
    ("pictures without their alternative text in the HTML", with_image_tag),
    ("alternative text JupyterLab does not show", lambda n: figure(n).data.pop("text/html", None)),
    ("stores a warning or progress", prints(" 50%|###  | 1/2", "stderr")),
    ("stores a warning or progress", prints("UserWarning: old", "stderr")),
    ("stores a warning:", prints("a.py:3: FutureWarning: this will go away")),
    ("stores a progress bar", prints("epoch 1: 100%|####| 6/6 [00:01<00:00]")),
    ("stores a progress bar", prints("Generating train split: 0 examples [00:00, ? examples/s]")),
    ("stores a widget without its state", widget_view("FloatProgress(value=0.0)")),
    ("stores a widget without its state", widget_view("VBox(children=(Dropdown(), HTML()))")),
    ("stores a progress bar", widget_view("  0%|          | 0/6 [00:00<?, ?it/s]")),
    ("stores an error", lambda n: code_cells(n)[0].outputs.append(
        nbformat.v4.new_output("error", ename="E", evalue="", traceback=[]))),
    ("a link to 99_nowhere.ipynb, which", prose("[next](99_nowhere.ipynb)")),
    ("a link to ../gone.md, which", prose('[page](../gone.md "a title")')),
    ("a link to pictures/gone.png, which", prose('<img src="pictures/gone.png" alt="x">')),
    ("a link to #Nowhere, but 03_collate", prose("[above](#Nowhere)")),
    ("a link to 02_datasets.ipynb#10.-Nothing, but 02_data",
     prose("[there](02_datasets.ipynb#10.-Nothing)")),
    ("the prose repeats 4,711", lambda n: (prose("All 4,711 of them.")(n), prints("4711 rows")(n))),
    ("the prose repeats 97.3%", lambda n: (prose("It has 97.3%, so")(n), prints("0.973")(n))),
    ("the prose repeats 2.5", lambda n: (prose("takes 2.5.")(n), prints("2.50 times")(n))),
    ("0 outputs are compared", take_tag("nbval-check-output")),
    ("prints nothing that is stored", lambda n: compared_cell(n).update(outputs=[])),
    ("which differ by machine", lambda n: compared_cell(n).outputs[0].update(text="took 1.5 s")),
    ("which differ by machine", lambda n: compared_cell(n).outputs[0].update(text="at most 80 MB")),
    ("does not start with its title", lambda n: n.cells.pop(0)),
    ("2 titles", prose("# Another")),
    ("heading 'Deep' skips a level", prose("### Deep")),
    ("sections are numbered [2, 1", prose("## 2. Early")),
    ("larger than 1.5 MB", prose("long " * 400_000)),
    ("no headline", take_tag("headline")),
]


@pytest.mark.parametrize(("fault", "change"), FAULTS, ids=[name for name, _ in FAULTS])
def test_a_planted_fault_is_found(tmp_path, fault, change):
    assert fault in planted(tmp_path, change)


def test_what_is_no_fault_is_not_called_one(tmp_path):
    def change(notebook):
        prose("## 1. The first\nSee lesson 47 and sections 11 and 12, `x[13]`, ViT-B/16, "
              "[15 · There](02_datasets.ipynb#1.-Base-rows:-an-image-and-its-captions), 5 of 8, "
              "[here](#1.-The-first), [the web](https://example.org/nothing#there).\n\n"
              "```\n# 14 is no heading, [and this](no.link)\n```")(notebook)
        prints("47 11 12 13 14 15 16 5 8")(notebook)
        with_state(notebook)
        explorer(notebook)
    before, after = planted(tmp_path / "a", lambda n: None), planted(tmp_path / "b", change)
    assert after.replace("sections are numbered [1, 1, 2, 3, 4, 5, 6]", "").strip() == before


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "instructors.md",
                                  "data/README.md", "benchmarks/README.md", "tests/README.md",
                                  "solutions/README.md", "notebooks/glossary.md", "cluster.md"])
def test_links_of_the_pages_beside_the_lessons_resolve(page):
    assert broken_links(FOLDER.parent / page) == []
    assert turns_of_phrase(FOLDER.parent / page) == []


def test_a_link_to_a_heading_of_a_page_is_followed(tmp_path):
    (tmp_path / "a.md").write_text("# One title\n## What is *it*, then?\n[x](#one-title) "
                                   "[y](#what-is-it-then) [z](b.md#gone) [w](#gone)")
    (tmp_path / "b.md").write_text("# B")
    assert broken_links(tmp_path / "a.md") == [
        "a link to b.md#gone, but b.md has no such heading",
        "a link to #gone, but a.md has no such heading"]


def test_numbers_are_compared_by_their_value():
    def repeated(text, printed):
        notebook = nbformat.v4.new_notebook(cells=[
            nbformat.v4.new_markdown_cell(text), nbformat.v4.new_code_cell("x", outputs=[
                nbformat.v4.new_output("execute_result", {"text/plain": printed})])])
        return repeated_numbers(notebook)
    assert repeated("98% of 14,330, that is 12.50.", "0.98\n14330\n12.5") == [
        "98%", "14,330", "12.50"]
    assert repeated("98% of 14,330", "98, 1433, 14.33, x14330, 14330-1") == []
    assert repeated("**Time:** 12 minutes.\n**Peak memory:** 1.5 GB. Then 12", "12 1.5") == ["12"]


BARS = [{"n": 0, "total": 6, "elapsed": 0}, {"n": 6, "total": 6, "elapsed": 1, "prefix": "epoch 1"},
        {"n": 3, "total": 6, "elapsed": 1, "postfix": "loss=0.5"},
        {"n": 3, "total": None, "elapsed": 1},
        {"n": 0, "total": None, "elapsed": 0, "unit": " rows"},
        {"n": 3e9, "total": 5e9, "elapsed": 4000, "unit": "B", "unit_scale": True},
        {"n": 5, "total": 10, "elapsed": 1, "ascii": True, "ncols": 80}]


@pytest.mark.parametrize("bar", [tqdm.format_meter(**bar) for bar in BARS])
@pytest.mark.parametrize("where", ["stderr", "widget", "beside a warning"])
def test_progress_is_stripped_and_other_output_kept(bar, where):
    view = {"application/vnd.jupyter.widget-view+json": {"model_id": "1"}, "text/plain": bar}
    bars = {"stderr": nbformat.v4.new_output("stream", name="stderr", text=f"\r{bar}\r{bar}\n"),
            "widget": nbformat.v4.new_output("display_data", view),
            "beside a warning": nbformat.v4.new_output(
                "stream", name="stderr", text=f"\r{bar}\nold.py: a warning\n")}
    kept = nbformat.v4.new_output("stream", name="stdout", text=f"kept: {bar}")
    notebook = nbformat.v4.new_notebook(cells=[
        nbformat.v4.new_code_cell("x", outputs=[bars[where], kept])])
    strip_progress(notebook)
    texts = [out.text for out in notebook.cells[0].outputs]
    warning = ["old.py: a warning\n"] if where == "beside a warning" else []
    assert texts == [*warning, f"kept: {bar}"]


@pytest.mark.parametrize("text", ["50%| WARNING: the data are damaged", "12 files [1, 2]\n",
                                  "it is 100% wrong", "ERROR 3/4 [x, y]", "100%|###| 3/3"])
def test_what_only_looks_like_progress_is_kept(text):
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("x", outputs=[
        nbformat.v4.new_output("stream", name="stderr", text=text)])])
    strip_progress(notebook)
    assert [out.text for out in notebook.cells[0].outputs] == [text]


def test_neighbouring_pieces_of_a_stream_become_one():
    def says(name, text):
        return nbformat.v4.new_output("stream", name=name, text=text)
    notebook = nbformat.v4.new_notebook(cells=[
        nbformat.v4.new_markdown_cell("x"), nbformat.v4.new_code_cell("x", outputs=[
            says("stdout", "a"), says("stdout", "b"), says("stderr", "c"), says("stdout", "d"),
            nbformat.v4.new_output("display_data", {"text/plain": "e"}), says("stdout", "f")])])
    merge_streams(notebook)
    assert [out.get("text", "-") for out in notebook.cells[1].outputs] == ["ab", "c", "d", "-", "f"]


def test_of_a_widget_its_page_is_kept_and_its_dead_model_is_not():
    widget = {"application/vnd.jupyter.widget-view+json": {"model_id": "1"}, "text/plain": "Box()"}
    cell = nbformat.v4.new_code_cell("x", outputs=[
        nbformat.v4.new_output("display_data", widget | {"text/html": "<p>a page</p>"}),
        nbformat.v4.new_output("display_data", widget)])
    strip_progress(nbformat.v4.new_notebook(cells=[cell]))
    assert [sorted(out.data) for out in cell.outputs] == [["text/html", "text/plain"],
                                                          sorted(widget)]


def test_a_line_of_progress_is_kept_and_its_seconds_are_no_number_of_the_lesson():
    line = nbformat.v4.new_output("display_data", {"text/plain": "encoding: 46,500 images, 85 s"},
                                  metadata={"progress": True})
    notebook = nbformat.v4.new_notebook(cells=[
        nbformat.v4.new_markdown_cell("All 46,500 of 85"),
        nbformat.v4.new_code_cell("x", outputs=[line])])
    strip_progress(notebook)
    assert notebook.cells[1].outputs == [line] and repeated_numbers(notebook) == []


def test_a_marked_cell_names_a_definition_that_is_there():
    with pytest.raises(ValueError, match="defines no nothing"):
        marked_source("# %load -s nothing ../vlm_utils/collate.py", FOLDER)


def test_the_title_is_the_first_heading_without_its_marks():
    def of(*texts):
        return title(nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell(text)
                                                     for text in texts]))
    assert of("none here", "# 03 · The `collate` of [many](a.md) *images*\n\n## 1. On") == (
        "03 · The collate of many images")
    assert of("no heading") == "" == of()


def test_a_page_without_a_heading_has_the_name_of_its_file():
    page = to_html(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1")]), "09_x < y")
    assert "<title>09_x &lt; y</title>" in page


def test_html_keeps_the_alternative_text(tmp_path):
    html = to_html(read(FOLDER / "01_architecture.ipynb"))
    assert 'alt="Three images of the test split, side by side."' in html


@pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)
def test_every_name_of_a_lesson_is_defined_in_it(path):
    """A trap: a shown function gets a new line in its module, and what that calls is imported
    there only."""
    done = subprocess.run(
        [sys.executable, "-m", "ruff", "check", "--isolated", "--select", "F821",
         "--output-format", "json", str(path)], capture_output=True, text=True)
    undefined = {re.search("`(.+)`", found["message"])[1] for found in json.loads(done.stdout)}
    sources = [cell.source for cell in code_cells(read(path))]
    deleted = {name for source in sources
               for line in re.findall(r"^del (.+)", source, re.M) for name in line.split(", ")}
    # ruff does not know IPython's last result, and calls undefined what is deleted at the end.
    assert undefined - deleted <= {"_"}
