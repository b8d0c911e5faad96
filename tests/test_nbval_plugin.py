"""What may fool nbval, planted in small notebooks: each must fail, once, and say what happened."""

import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass
from functools import cache

import nbformat
import pytest

from vlm_utils.course import conditions
from vlm_utils.course.conditions import isolation
from vlm_utils.course.nbval_plugin import NBVAL_CELL_SECONDS
from vlm_utils.profiles import REPOSITORY

TIMEOUT = 600       # of a cell, in seconds: what none of the broken notebooks may wait for
LATE_KILL = """\
import os, subprocess, sys, time
code = f"import os, time; time.sleep(1); os.kill({os.getpid()}, 9)"
subprocess.Popen([sys.executable, "-c", code])
time.sleep(600)"""
LIMIT = """\
import resource
resource.setrlimit(resource.RLIMIT_AS, (2_000_000_000,) * 2)"""
LATE = """\
import threading
go = threading.Event()
def fail(): go.wait(); raise ValueError("planted")
thread = threading.Thread(target=fail)
thread.start()"""
UNASKED = """\
from concurrent.futures import ThreadPoolExecutor
with ThreadPoolExecutor() as pool: future = pool.submit(lambda: 1 / 0)"""
BROKEN = {
    "killed": ["import os; os.kill(os.getpid(), 9)", "1"],
    "killed_from_outside": ["1", LATE_KILL, "1"],
    "exited": ["import os; os._exit(3)", "1"],
    "memory_filled": [LIMIT, "kept = []\nwhile True: kept.append(bytearray(1_000_000))", "1"],
    "unknown_magic": ["%no_such_magic", "1"],
    "script_not_there": ["%run no_such_script.py", "1"],
    "error": ["1", "1 / 0", "1", "1"],
    "late": ["1", LATE, "1", "go.set(); thread.join()", "1"],
    "unasked": ["1", UNASKED, "1"],
    "works": ["a = bytearray(200_000_000)", "del a", "import ipywidgets\nipywidgets.IntSlider()"],
}
FIGURE = """\
from vlm_utils.plots import as_picture, new_figure
figure = new_figure(2, 2)
figure.subplots().plot([1, 2], linewidth={width})
picture = as_picture(figure, "A line.")
"""
PICTURE = "from PIL import Image\nImage.linear_gradient('L').resize((64, 64))"
EQUAL = {           # what runs, what is stored: all of them in one notebook
    "same": ("print((3, 16, 96))", "(3, 16, 96)\n"),
    "with_a_bar": ("from tqdm.auto import tqdm\nfor _ in tqdm(range(3)): pass\nprint(3)", "3\n"),
    "with_a_line": ("from vlm_utils.plots import progress\n"
                    "with progress(3, 'encoding', 'images') as line: line.update(3)\nprint(3)",
                    "3\n"),
}
COMPARED = {        # the same for what differs: a shape, a count, a decoded prompt
    "no_bar": ("import sys\nprint('50%| wrong', file=sys.stderr)\nprint(3)", "3\n"),
    "other_shape": ("print((3, 16, 96))", "(3, 49, 96)\n"),
    "other_count": ("print(f'{14330} images')", "14331 images\n"),
    "other_prompt": ("print('[image]<image_1>What changed?')", "<image_1>[image]What changed?\n"),
}


@dataclass
class Cell:
    """A cell in the JUnit file: passed, failed or skipped, the message, and what was measured."""

    outcome: str
    message: str
    measured: dict


def write_notebook(path, sources, outputs=(), tags=()):
    cells = [nbformat.v4.new_code_cell(source, execution_count=number)
             for number, source in enumerate(sources, start=1)]
    for cell, text in zip(cells, outputs, strict=False):
        cell.outputs = [nbformat.v4.new_output("stream", text=text)]
        cell.metadata["tags"] = list(tags)
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)


def run_nbval(folder, *options, timeout=TIMEOUT, page=True, **environment):
    """Outcomes of a folder's notebooks, {notebook: [Cell, ...]}, what pytest wrote, its status.

    The end of a notebook, which pytest counts as a test of its own, is not among its cells, but
    under "(the notebook's name) end". Hypothesis is not loaded: half a second of each run.
    """
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "vlm_utils.course.nbval_plugin", "--nbval-lax",
         "--nbval-current-env", f"--nbval-cell-timeout={timeout}", "-p", "no:cacheprovider",
         "-p", "no:hypothesispytest",
         "--nbval-kernel-startup-timeout=300",
         f"--junit-xml={folder / 'check.xml'}",
         *([f"--lesson-html={folder / 'check.html'}"] if page else []), *options, str(folder)],
        cwd=folder, env=os.environ | {"PYTHONPATH": str(REPOSITORY)} | environment,
        capture_output=True, text=True)
    found = {}
    for case in ElementTree.parse(folder / "check.xml").iter("testcase"):
        bad = [child for child in case if child.tag in ("failure", "error", "skipped")]
        measured = {p.get("name"): p.get("value") for p in case.iter("property")}
        text = " ".join(f"{child.get('message')} {child.text}" for child in bad)
        name = case.get("classname").removesuffix(".ipynb").split(".")[-1]
        if not case.get("name").startswith("Cell "):
            name = f"{name} {case.get('name').lower()}"
        found.setdefault(name, []).append(Cell(bad[0].tag if bad else "passed", text, measured))
    return found, done.stdout, done.returncode


@pytest.fixture(scope="module")
def broken(tmp_path_factory):
    """All the broken notebooks in one run, as `make check` runs lessons."""
    folder = tmp_path_factory.mktemp("broken")
    for name, sources in BROKEN.items():
        if os.name == "posix" or "resource" not in sources[0]:
            write_notebook(folder / f"{name}.ipynb", sources)
    (folder / "no_notebook.ipynb").write_text("{")
    found, screen, status = run_nbval(folder)
    return found, screen, status, (folder / "check.html").read_text(encoding="utf-8")


def outcomes(cells):
    return [cell.outcome for cell in cells]


@pytest.mark.skipif(os.name != "posix", reason="signals and memory limits as on Linux and macOS")
@pytest.mark.parametrize(("name", "message"), [
    ("killed", "the kernel died (SIGKILL"), ("exited", "the kernel died (exit status 3)"),
    ("killed_from_outside", "the kernel died (SIGKILL")])
def test_a_dead_kernel_fails_its_cell_long_before_its_time_is_up_and_the_message_says_so(
        broken, name, message):
    cells = broken[0][name]
    dead = [cell for cell in cells if cell.outcome == "failure"]
    assert len(dead) == 1 and message in dead[0].message
    assert float(dead[0].measured["seconds"]) < TIMEOUT / 10        # however busy the machine is
    assert outcomes(cells)[-1] == "skipped"


@pytest.mark.skipif(sys.platform != "linux", reason="a limit on memory that the system enforces")
def test_memory_that_runs_out_is_named(broken):
    cells = broken[0]["memory_filled"]
    assert outcomes(cells) == ["passed", "failure", "skipped"]
    assert "out of memory: MemoryError" in cells[1].message


@pytest.mark.parametrize("name", ["unknown_magic", "script_not_there"])
def test_a_failed_magic_fails(broken, name):
    assert outcomes(broken[0][name]) == ["failure", "skipped"]


def test_cells_after_a_failed_cell_are_not_run_and_do_not_fail(broken):
    cells = broken[0]["error"]
    assert outcomes(cells) == ["passed", "failure", "skipped", "skipped"]
    assert "ZeroDivisionError: division by zero" in cells[1].message
    assert "not run: cell 2 failed" in cells[2].message


def test_the_next_notebook_still_runs(broken):
    assert outcomes(broken[0]["works"]) == ["passed"] * 3     # the last in the order of names
    assert outcomes(broken[0]["works end"]) == ["passed"]
    assert broken[2] != 0


def test_what_goes_wrong_after_a_cell_has_passed_is_blamed_on_it(broken):
    found, screen, _, _ = broken
    assert outcomes(found["late"]) == ["passed"] * 3 + ["failure", "skipped"]
    assert "cell 2, after it had ended: an exception in the thread" in found["late"][3].message
    assert "not run: cell 2 failed" in found["late"][4].message
    assert "cell 2 failed: after it had ended: an exception in the thread" in screen


def test_what_comes_to_light_at_the_end_is_blamed_on_its_cell(broken):
    found, screen, _, page = broken
    assert outcomes(found["unasked"]) == ["passed"] * 3
    assert outcomes(found["unasked end"]) == ["failure"]
    assert "cell 2, after it had ended: an exception in a pool" in found["unasked end"][0].message
    assert "cell 2 failed: after it had ended: an exception in a pool" in screen
    assert page.count("<td>failed: after it had ended: an exception in a pool") == 1


def test_a_notebook_that_cannot_be_read_is_a_row_of_the_table(broken):
    found, screen, _, _ = broken
    assert outcomes(found["no_notebook notebook"]) == ["failure"]
    assert "it cannot be read: NotJSONError" in screen


def test_what_is_not_checked_is_named(broken):
    _, screen, _, page = broken
    assert "not checked: widgets: shown, but nobody has clicked on them (works 3)" in screen
    assert "not checked: widgets" in page
    assert re.search(r"not checked: what (\d+) of \1 cells print", screen)


def test_seconds_and_peak_memory_of_each_cell_are_kept(broken):
    large, after, small = (float(c.measured["peak_mb"]) for c in broken[0]["works"])
    assert large > 200 and large > small + 150
    assert all(float(c.measured["seconds"]) > 0 for c in broken[0]["works"])


def test_the_table_ends_the_run_and_stands_in_the_page(broken):
    _, screen, _, page = broken
    lines = screen.strip().split("\n")
    head = next(i for i, line in enumerate(lines) if line.startswith("notebook "))
    rows = {line.split()[0]: line for line in lines[head + 1:]}
    assert rows["works"].split()[1] == "3" and re.search(rf" {TIMEOUT} s +ok$", rows["works"])
    assert "cell 2 failed: ZeroDivisionError" in rows["error"]
    assert "passed" in lines[head - 2], "something stands between pytest's last line and the table"
    for text in ("<h2>works</h2>", "<td>not run</td>", "import os; os.kill(os.getpid(), 9)",
                 "failed: the kernel died"):
        assert text in page


# --- comparison --------------------------------------------------------------------------------

def stored(path, change):
    """Change the cells of a notebook that is written: what is stored in it."""
    notebook = nbformat.read(path, as_version=4)
    change(notebook.cells)
    nbformat.write(notebook, path)


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("compared")
    for name, (source, text) in COMPARED.items():
        write_notebook(folder / f"{name}.ipynb", [source], [text], ["nbval-check-output"])
    write_notebook(folder / "cleared.ipynb", ["print(1)"], [""], ["nbval-check-output"])
    stored(folder / "cleared.ipynb",
           lambda cells: cells[0].update(execution_count=None, outputs=[]))
    write_notebook(folder / "other_picture.ipynb", [PICTURE])
    # A figure that is stored with a few other pixels, as another version of matplotlib draws it.
    names = {}
    exec(FIGURE.format(width=1.6), names)
    data, metadata = names["picture"]._repr_mimebundle_()
    sources, texts = zip(*EQUAL.values(), strict=True)
    write_notebook(folder / "equal.ipynb",
                   [*sources, FIGURE.format(width=1.5) + "display(picture)", "print(1.25)"],
                   [*texts, "", "1.5\n"], ["nbval-check-output"])

    def change(cells):
        cells[-2].outputs = [nbformat.v4.new_output("display_data", data, metadata=metadata)]
        cells[-1].metadata["tags"] = []         # it is not compared
    stored(folder / "equal.ipynb", change)
    return folder


def test_a_wrong_shape_count_or_prompt_in_a_stored_output_fails(compared):
    found, _, status = run_nbval(compared)
    assert outcomes(found["equal"]) == ["passed"] * (len(EQUAL) + 2)
    failed = {name for name, cells in found.items()
              if outcomes(cells) != ["passed"] and not name.endswith(" end")} - {"equal"}
    assert failed == {"no_bar", "other_shape", "other_count", "other_prompt", "other_picture",
                      "cleared"}
    assert "it shows 1 pictures, and 0 are stored" in found["other_picture"][0].message
    assert "Cell outputs differ" in found["other_shape"][0].message
    assert "no output of it is stored" in found["cleared"][0].message
    assert status != 0


def test_at_real_size_the_tiny_outputs_are_not_compared_and_the_table_says_so(compared, tmp_path):
    """Cells that fail in the tiny profile, one after the other."""
    cells = [nbformat.read(compared / f"{name}.ipynb", as_version=4).cells[0]
             for name in ("other_count", "cleared", "other_picture")]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "other.ipynb")
    found, screen, status = run_nbval(tmp_path, VLM_PROFILE="full")
    assert outcomes(found["other"]) == ["passed"] * 3
    assert "were not compared (profile full)" in screen and status == 0


def test_a_changed_output_of_a_real_lesson_fails(tmp_path):
    """Lesson 03, the quickest, with one digit more in the last output that is compared."""
    path = tmp_path / "03_collate.ipynb"
    shutil.copy(REPOSITORY / "notebooks" / path.name, path)
    notebook = nbformat.read(path, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    tagged = [i for i, cell in enumerate(code)
              if "nbval-check-output" in cell.metadata.get("tags", [])]
    stored = code[tagged[0]].outputs[0]
    assert stored.output_type == "stream"
    stored.text = "1" + stored.text
    nbformat.write(notebook, path)
    cells = run_nbval(tmp_path)[0]["03_collate"]
    assert outcomes(cells).index("failure") == tagged[0]
    assert "Cell outputs differ" in cells[tagged[0]].message


# --- network -----------------------------------------------------------------------------------

@pytest.fixture
def server():
    """A port of this machine that accepts connections."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        threading.Thread(target=lambda: listening.accept(), daemon=True).start()
        yield listening.getsockname()[1]


def test_a_lesson_reaches_no_network_unless_it_is_asked_for(tmp_path, server):
    if not isolation():
        pytest.skip("this system allows no network namespace")
    write_notebook(tmp_path / "net.ipynb", [
        "import socket\nassert [name for _, name in socket.if_nameindex()] == ['lo']",
        f"socket.create_connection(('127.0.0.1', {server}), timeout=5).close()"])
    found, screen, _ = run_nbval(tmp_path)
    assert outcomes(found["net"]) == ["passed", "failure"]
    assert "The network was cut off." in screen
    write_notebook(tmp_path / "net.ipynb", [
        f"import socket\nsocket.create_connection(('127.0.0.1', {server}), timeout=5).close()"])
    found, screen, _ = run_nbval(tmp_path, "--lesson-network")
    assert outcomes(found["net"]) == ["passed"]
    assert "not cut off" in screen


def test_where_namespaces_are_not_allowed_the_kernel_runs_as_it_is(monkeypatch):
    isolation.cache_clear()
    monkeypatch.setattr(conditions.shutil, "which", lambda name: None)
    assert isolation() == ()
    isolation.cache_clear()


# --- small parts -------------------------------------------------------------------------------

def test_a_kernel_that_cannot_start_is_one_failure(tmp_path):
    write_notebook(tmp_path / "a.ipynb", ["1", "2"])
    notebook = nbformat.read(tmp_path / "a.ipynb", as_version=4)
    notebook.metadata["kernelspec"] = {"name": "no-such-kernel", "display_name": "?"}
    nbformat.write(notebook, tmp_path / "a.ipynb")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "vlm_utils.course.nbval_plugin", "--nbval-lax",
         "-rs", str(tmp_path)], cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        capture_output=True, text=True)
    assert "1 failed, 2 skipped" in done.stdout         # cell 2, and the end
    assert "the kernel did not start: No such kernel" in done.stdout


def test_the_plugin_is_loaded_for_every_run_in_the_repository(request):
    assert request.config.pluginmanager.has_plugin("vlm_utils.course.nbval_plugin")


# --- time --------------------------------------------------------------------------------------

def test_a_cell_that_outlives_its_limit_fails_and_what_comes_after_is_not_run(tmp_path):
    write_notebook(tmp_path / "slow.ipynb", [
        "import time\ntry: time.sleep(600)\nexcept KeyboardInterrupt: print('saved')", "1"])
    found, screen, status = run_nbval(tmp_path, timeout=1)
    assert outcomes(found["slow"]) == ["failure", "skipped"] and status != 0
    assert "cell 1 failed: it took longer than it may: 1 s" in screen


@pytest.fixture(scope="module")
def short(tmp_path_factory):
    """A function that runs a notebook of one cell without a limit, in a profile."""
    folder = tmp_path_factory.mktemp("short")
    write_notebook(folder / "short.ipynb", ["1"])

    @cache
    def run(profile):
        return run_nbval(folder, timeout=NBVAL_CELL_SECONDS, page=False, VLM_PROFILE=profile)
    return run


@pytest.mark.parametrize(("profile", "seconds"), [("tiny", "1800"), ("full", "3600")])
def test_without_a_given_limit_it_follows_profile_and_machine_and_stands_in_the_table(
        short, profile, seconds):
    found, screen, _ = short(profile)
    limit = found["short"][0].measured["limit"]
    assert re.fullmatch(rf"\d+ s = {seconds} x \d+\.\d", limit) and limit in screen


def test_without_a_page_the_table_stands_before_the_closing_line(short):
    """With one it comes last: test_the_table_ends_the_run_and_stands_in_the_page."""
    lines = short("tiny")[1].splitlines()
    closing = next(i for i, line in enumerate(lines) if " passed in " in line)
    header = next(i for i, line in enumerate(lines) if line.startswith("notebook "))
    assert header < closing == len(lines) - 1
