"""What a cell may do that its kernel does not call an error: each planted, found, and blamed on it.

All cells that leave the kernel alive share one kernel; every other test has its own.
"""

import os
import shutil

import nbformat
import pytest

from vlm_utils.course import judge, limits
from vlm_utils.course.kernel import WatchedKernel
from vlm_utils.course.limits import Limit
from vlm_utils.course.session import Session

LONG = Limit(600)           # what no cell of these needs, however busy the machine is
# As on a machine of a twentieth of the speed, which waits longer for what ends a kernel.
PATIENT = Limit(600, scale=20)
BASH = pytest.mark.skipif(shutil.which("bash") is None or os.name != "posix", reason="no bash")
POSIX = pytest.mark.skipif(os.name != "posix", reason="shell commands as on Linux and macOS")
# name: (source, words of its fault, marks of the test)
BAD = {
    "shell line": ("!false", "the shell line `false` ended with exit status 1", POSIX),
    "no command": ("!no_such_command", "`no_such_command` ended with exit status 127", POSIX),
    "kept output": ("lines = !false", "the shell line `false` ended with exit status 1", POSIX),
    "pip": ("%pip install --no-index no_such_package", "install --no-index no_such_package` ended",
            ()),
    "script": ("%%bash\nexit 3", "CalledProcessError: Command 'exit 3 ' returned non-zero",
               BASH),
    "script midway": ("%%bash\ntrue\nfalse\necho ok", "line 2 of the script, `false`", BASH),
    "script's job": ("%%bash\nfalse & sleep 0.3",
                     "a job in the background of a script failed", BASH),
    "background script": ("%%bash --bg\nsleep 0.5; exit 4",
                      "in the background with exit status 4", BASH),
    "no interpreter": ("%%script no_such_interpreter\n1",
                       "a magic failed: Couldn't find program", ()),
    "no folder": ("%cd no_such_folder", "a magic failed: [Errno 2]", ()),
    "no magic": ("%no_such_magic", "UsageError: Line magic function", ()),
    "thread": ("import threading\n"
               "def fail(): raise ValueError('planted')\n"
               "threading.Thread(target=fail, name='T').start()",
               "an exception in the thread T: ValueError: planted", ()),
    "late thread": ("import threading, time\n"
                    "def fail_late(): time.sleep(2); print('late'); raise ValueError('planted')\n"
                    "threading.Thread(target=fail_late, name='L').start()",
                    "an exception in the thread L: ValueError: planted", ()),
    "pool": ("from concurrent.futures import ThreadPoolExecutor\n"
             "with ThreadPoolExecutor() as pool: future = pool.submit(fail)",
             "whose result nobody asked for: ValueError: planted", ()),
    "task": ("import asyncio\n"
             "async def fail_soon(): raise KeyError('planted')\n"
             "kept = asyncio.create_task(fail_soon())",
             "a task that nobody waited for: KeyError: 'planted'", ()),
    "forgotten task": ("asyncio.create_task(fail_soon())\nawait asyncio.sleep(0.1)\n"
                       "import gc; _ = gc.collect()",
                       "asyncio: Task exception was never retrieved: KeyError: 'planted'", ()),
    "callback": ("asyncio.get_running_loop().call_later(0.2, lambda: 1 / 0)\nNone",
                 "asyncio: Exception in callback", ()),
    "widget": ("import ipywidgets\nbutton = ipywidgets.Button()\n"
               "button.on_click(lambda _: 1 / 0)\nbutton.click()",
               "ZeroDivisionError: division by zero", ()),
    "output widget": ("with ipywidgets.Output(): 1 / 0", "ZeroDivisionError: division by zero", ()),
    "printed traceback": ("import traceback\ntry: 1 / 0\n"
                          "except ZeroDivisionError: traceback.print_exc()",
                          "it prints a traceback: ZeroDivisionError: division by zero", ()),
    "expected, none": ("# NBVAL_RAISES_EXCEPTION\n1",
                       "it is tagged raises-exception, and raises none", ()),
    "sys.exit": ("import sys\nsys.exit(1)", "SystemExit: 1", ()),
    "blank picture": ("from PIL import Image\nImage.new('RGB', (40, 30), 'white')",
                      "picture 1 is blank", ()),
}
GOOD = {
    "caught": ("try: 1 / 0\nexcept ZeroDivisionError as error: print('caught', error)", ()),
    "expected": ("# NBVAL_RAISES_EXCEPTION\n1 / 0", ()),
    "caught in a thread": ("def careful():\n    try: fail()\n    except ValueError: pass\n"
                           "thread = threading.Thread(target=careful); thread.start(); "
                           "thread.join()", ()),
    "asked pool": ("with ThreadPoolExecutor() as pool: future = pool.submit(fail)\n"
                   "print(future.exception())", ()),
    "idle pool": ("kept_pool = ThreadPoolExecutor(); kept_pool.submit(len, 'a').result()", ()),
    "awaited task": ("try: await asyncio.create_task(fail_soon())\nexcept KeyError: pass", ()),
    "fetched later": ("waits = asyncio.create_task(fail_soon())", ()),
    "fetches": ("try: await waits\nexcept KeyError: pass", ()),
    "progress": ("from tqdm import tqdm\nfor _ in tqdm(range(3)): pass", ()),
    "log": ("import logging\nlogging.warning('this is only a warning')", ()),
    "error word": ("print('ERROR 1: nothing is wrong; a traceback would say so')", ()),
    "shell": ("!true\nlines = !echo hi\nassert lines == ['hi']", POSIX),
    "may fail": ("!false || true", POSIX),
    "script": ("%%bash\ngrep -q x /dev/null || true\nif false; then echo; fi\n"
               "false & wait $! || true", BASH),
    "widget": ("slider = ipywidgets.IntSlider()\n"
               "slider.observe(lambda _: None, 'value')\nslider.value = 3", ()),
    "daemon": ("threading.Thread(target=lambda: time.sleep(60), daemon=True).start()", ()),
    "picture": ("picture = Image.new('RGB', (40, 30), 'white')\n"
                "picture.putpixel((1, 1), 0)\npicture", ()),
    "async": ("await asyncio.sleep(0.01)", ()),
}
CELLS = {f"bad: {name}": cell[0] for name, cell in BAD.items()} | {
    f"good: {name}": cell[0] for name, cell in GOOD.items()}


def open_session(sources, folder, limit=LONG):
    cells = [nbformat.v4.new_code_cell(source) for source in sources]
    notebook = nbformat.v4.new_notebook(cells=cells)
    return Session(notebook, WatchedKernel(str(folder), limit), limit)


def run(sources, folder, limit=LONG):
    """All cells, whatever becomes of them, and the end: their runs, and the session."""
    session = open_session(sources, folder, limit)
    try:
        runs = [session.run(number) for number in range(1, len(sources) + 1)]
        session.finish()
    finally:
        session.kernel.stop()
    return runs, session


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    found, session = run(CELLS.values(), tmp_path_factory.mktemp("cells"))
    return dict(zip(CELLS, found, strict=True)), session


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=cell[2]) for name, cell in BAD.items()])
def test_a_planted_fault_is_found_and_blamed_on_its_cell(runs, name):
    found = judge.faults(runs[0][f"bad: {name}"])
    assert any(BAD[name][1] in fault for fault in found), found


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=cell[1]) for name, cell in GOOD.items()])
def test_what_only_looks_like_a_fault_is_none(runs, name):
    assert judge.faults(runs[0][f"good: {name}"]) == []


def test_what_a_thread_prints_late_stands_under_its_own_cell(runs):
    printed = {name: cell.printed.get("stdout", "") for name, cell in runs[0].items()}
    assert [name for name, text in printed.items() if "late" in text] == ["bad: late thread"]


def test_the_guard_leaves_nothing_in_the_notebook_and_watches_all_that_it_can(tmp_path):
    known, session = run(["print(sorted(n for n in globals() if not n.startswith('_')))\n"
                          "print(In, Out)", "1", "Out"], tmp_path)
    assert known[0].printed["stdout"] == (
        "['In', 'Out', 'exit', 'get_ipython', 'open', 'quit']\n['', " + repr(
            known[0].cell.source) + "] {}\n")
    assert known[2].cell.outputs[0].data["text/plain"] == "{2: 1}"      # as in JupyterLab
    assert session.notes == []


def test_what_nobody_could_see_is_named(tmp_path):
    if os.name != "posix":
        pytest.skip("scripts as on Linux and macOS")
    found, session = run([
        "import threading, time\n"
        "threading.Thread(target=lambda: time.sleep(60), name='T').start()",
        "from concurrent.futures import ThreadPoolExecutor\n"
        "pool = ThreadPoolExecutor(); job = pool.submit(time.sleep, 60)",
        "%%sh\nfalse\ntrue",
        "%%bash --no-raise-error\nfalse",
        "%%bash\nsleep 60 > /dev/null 2>&1 &",
        "import subprocess\n_ = subprocess.Popen(['sleep', '60'])",
        "import ipywidgets\nipywidgets.IntSlider()",
    ], tmp_path)
    assert [judge.faults(cell) for cell in found] == [[]] * 7
    notes = [" ".join(judge.unchecked(cell)) for cell in found]
    assert "the thread T, which still ran at the end" in notes[0]
    assert "a job of a pool, which still ran at the end" in notes[1]
    assert "the lines of a %%sh cell before its last one" in notes[2]
    assert "a script that may fail: --no-raise-error" in notes[3]
    assert "a job that a script left in the background" in notes[4]
    assert "nobody has clicked" in notes[6]
    assert "a process that still ran at the end: sleep" in session.notes


# --- the end of a kernel -----------------------------------------------------------------------

@pytest.mark.skipif(os.name != "posix", reason="signals as on Linux and macOS")
@pytest.mark.parametrize(("source", "words"), [
    ("exit()", "it asks the kernel to end"),
    ("import os, subprocess\n"
     "_ = subprocess.Popen(['sh', '-c', f'sleep 1; kill -9 {os.getpid()}'])",
     "after the last cell the kernel died (SIGKILL"),
    ("import atexit, os\n_ = atexit.register(os._exit, 7)",
     "as it was told to end, the kernel died (exit status 7)"),
    ("import sys\nsys.stdout.close()", "sys.stdout is closed"),
])
def test_a_lesson_whose_last_cell_ends_its_kernel_fails(tmp_path, source, words):
    found, _ = run(["1", source], tmp_path, PATIENT)
    assert judge.faults(found[0]) == []
    assert words in " ".join(judge.faults(found[1]))


@pytest.mark.skipif(os.name != "posix", reason="signals as on Linux and macOS")
def test_a_kernel_that_aborts_after_the_lesson_has_ended_is_noted_and_is_no_fault(tmp_path):
    """As Python itself and the kernel's own sockets go: one kernel in thousands does."""
    found, session = run(["1", "import os, sys\nclass Late:\n    def __del__(self, end=os.abort):\n"
                          "        end()\nsys.late = Late()"], tmp_path, PATIENT)
    assert [judge.faults(cell) for cell in found] == [[], []]
    assert "after all of the lesson had ended: as it was told to end, the kernel died (SIGABRT" in (
        " ".join(session.notes))


def test_a_kernel_that_does_not_end_in_time_is_noted_and_killed(tmp_path, monkeypatch):
    monkeypatch.setattr("vlm_utils.course.session.EXIT_SECONDS", 0.01)       # nothing ends in that
    found, session = run(["import atexit, time\n_ = atexit.register(time.sleep, 600)"], tmp_path)
    assert judge.faults(found[0]) == []
    assert "told to end, the kernel still ran" in " ".join(session.notes)
    assert not session.kernel.is_alive()


# --- time --------------------------------------------------------------------------------------

def test_a_cell_that_outlives_its_limit_fails_though_it_returns_when_it_is_interrupted(tmp_path):
    session = open_session(["import time\ntry: time.sleep(600)\n"
                            "except KeyboardInterrupt: print('interrupted: saved')"], tmp_path,
                           Limit(1, scale=20))
    try:
        cell = session.run(1)
    finally:
        session.kernel.stop()
    assert "it took longer than it may: 1 s" in judge.faults(cell)[0]
    # It did return; on a busy machine its last words may come too late to be kept.
    assert cell.printed.get("stdout", "") in ("", "interrupted: saved\n")


def test_a_cell_out_of_time_says_where_it_was(tmp_path):
    session = open_session(["import time\nfor _ in range(6000):\n    time.sleep(0.1)  # here"],
                           tmp_path, Limit(1, scale=20))
    try:
        cell = session.run(1)
    finally:
        session.kernel.stop()
    assert judge.faults(cell) == [
        "it took longer than it may: 1 s; it was at: 3 time.sleep(0.1) # here"]


def test_on_a_machine_that_has_become_slow_a_cell_gets_more_time(tmp_path, monkeypatch):
    monkeypatch.setattr(limits, "machine_scale", lambda: 20.0)      # twenty times as slow, now
    session = open_session(["import time\ntime.sleep(3)\nprint('done')"], tmp_path,
                           Limit(2, scale=1.0, measured=True))
    try:
        cell = session.run(1)
    finally:
        session.kernel.stop()
    assert cell.printed.get("stdout") == "done\n" and judge.faults(cell) == []
    assert str(session.limit) == "40 s = 2 x 20.0"
