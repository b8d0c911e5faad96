"""The lessons in JupyterLab, in a real browser: run, saved, opened again; the explorer, used.

On a subset of the images: what all of them give is for nbval to look at, and here it is the page.
"""

import json
import os
import shutil
import subprocess
import sys
import time

import pytest
from browser import Browser, find_chromium, until

from vlm_utils.profiles import PROFILES, REPOSITORY
from vlm_utils.widgets import AGAIN

LESSONS = ["01_architecture", "02_datasets", "03_collate", "05_evaluation", "06_memory_cleanup"]
MINUTES = 5     # for anything to come to an end, on a busy machine
IMAGES = 64     # of each split
# Lesson 04 has more: there must be time to press the stop button before it has trained to its end.
TRAINED_IMAGES = 2000
PANEL = "jupyterapp.shell.currentWidget"
CELLS = f"[...Array({PANEL}.content.model.cells.length).keys()].map(" \
        f"k => {PANEL}.content.model.cells.get(k).toJSON())"
# Where the explorer's parts are: JupyterLab shows a widget twice if its output is shown twice.
EXPLORER = "[...document.querySelectorAll('.jp-OutputArea .widget-vbox')].at(-1)"


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """The address of JupyterLab as `make lab` starts it, on a copy of the lessons; and the copy."""
    if not find_chromium():
        pytest.skip("no chromium on this system: install it (apt-get install chromium)")
    root = tmp_path_factory.mktemp("lab")
    for name in ("notebooks", "solutions", "benchmarks"):
        shutil.copytree(REPOSITORY / name, root / name)
    settings = root / "settings" / "@jupyterlab" / "notebook-extension"
    settings.mkdir(parents=True)
    # All cells are in the page, not only those in sight: else there is nothing to look at.
    (settings / "tracker.jupyterlab-settings").write_text('{"windowingMode": "none"}')
    environment = os.environ | {
        "JUPYTERLAB_SETTINGS_DIR": str(root / "settings"), "VLM_OUTPUT": str(root / "build"),
        "JUPYTER_RUNTIME_DIR": str(root / "runtime"), "JUPYTER_CONFIG_DIR": str(root / "config"),
        "JUPYTERLAB_WORKSPACES_DIR": str(root / "workspaces"), "VLM_PROFILE": "tiny",
        "VLM_SUBSET": str(IMAGES)}
    with (root / "log").open("w") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", "jupyter", "lab", "--ServerApp.root_dir=.",
             "notebooks/01_architecture.ipynb", "--no-browser", "--allow-root",
             "--ServerApp.port=0", "--IdentityProvider.token=", "--expose-app-in-browser"],
            cwd=root, env=environment, stdout=log, stderr=log)
    try:
        known = until(lambda: next((root / "runtime").glob("jpserver-*.json"), None),
                      "JupyterLab to start")
        yield until(lambda: json.loads(known.read_text() or "{}").get("url"), "its address"), root
    finally:
        server.terminate()
        server.wait(60)


@pytest.fixture(scope="module")
def browser(lab, tmp_path_factory):
    browser = Browser(tmp_path_factory.mktemp("chromium"))
    browser.resize(1280, 1000)
    yield browser
    browser.close()


def open_lesson(browser, lab, name):
    browser.open(f"{lab[0]}lab/tree/notebooks/{name}.ipynb?reset")
    browser.wait(f"typeof jupyterapp !== 'undefined' && {PANEL} && {PANEL}.content && "
                 f"{PANEL}.context && {PANEL}.context.path.endsWith('{name}.ipynb') && "
                 f"{PANEL}.content.model && {PANEL}.content.model.cells.length > 1", name)


def run_all(browser):
    """Run All, as the menu does it, and wait for its end."""
    browser.wait(f"{PANEL}.sessionContext.session?.kernel?.status === 'idle'", "the kernel")
    browser.run(f"{PANEL}.content.model.cells.get(0) && (window.ran = null, "
                "jupyterapp.commands.execute('notebook:run-all-cells').then("
                "done => window.ran = 'ended', error => window.ran = String(error)), 1)")
    assert browser.wait("window.ran", "Run All to end", 60 * MINUTES) == "ended"
    # It says so too early if a cell raises what its tag announces: the cells after it still run.
    browser.wait(f"{CELLS}.every(cell => cell.cell_type !== 'code' || cell.execution_count)",
                 "every cell to have run", 60 * MINUTES)


def errors(browser) -> list:
    """Errors shown, but for those that a lesson raises on purpose and says so in a tag."""
    return browser.run(f"{CELLS}.filter(cell => !(cell.metadata.tags || []).includes("
                       "'raises-exception')).flatMap(cell => cell.outputs || []).filter("
                       "out => out.output_type === 'error').map("
                       "out => out.ename + ': ' + out.evalue)")


@pytest.mark.parametrize("name", LESSONS)
def test_run_all_then_save_and_open_again(browser, lab, name):
    open_lesson(browser, lab, name)
    run_all(browser)
    assert errors(browser) == []
    counts = browser.run(f"{CELLS}.filter(cell => cell.cell_type === 'code').map("
                         "cell => cell.execution_count)")
    assert counts == list(range(1, len(counts) + 1))
    browser.run("jupyterapp.commands.execute('docmanager:save').then(done => 1)")
    browser.run(f"{PANEL}.sessionContext.shutdown().then(done => 1)")
    open_lesson(browser, lab, name)
    browser.wait("document.querySelectorAll('.jp-OutputArea-output').length > 10", "the outputs")
    words = browser.run("document.querySelector('.jp-Notebook').innerText")
    for fault in ("Error displaying widget", "model not found"):
        assert fault not in words
    texts = browser.run("[...document.querySelectorAll('.jp-Notebook img')].map(i => i.alt)")
    assert texts and all(text and "No description" not in text for text in texts)


# --- the explorer ------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def explorer(browser, lab):
    """Lesson 05 with its explorer alive; its parts by name, as JavaScript."""
    open_lesson(browser, lab, "05_evaluation")
    run_all(browser)
    browser.wait(f"!!{EXPLORER}?.querySelector('textarea')", "the explorer")
    browser.run(f"{EXPLORER}.scrollIntoView(); window.explorer = {EXPLORER}; 1")
    return browser


def said(browser) -> str:
    return browser.run("explorer.innerText")


def choose(browser, part, value):
    """Give a control a value as a user does: it changes, and then loses the focus."""
    kinds = {"select": "HTMLSelectElement", "input": "HTMLInputElement",
             "textarea": "HTMLTextAreaElement"}
    browser.run(f"""(() => {{ const part = explorer.querySelector('{part}');
        part.focus();
        Object.getOwnPropertyDescriptor({kinds[part]}.prototype, 'value').set.call(
            part, {json.dumps(value)});
        for (const kind of ['input', 'change']) part.dispatchEvent(
            new Event(kind, {{bubbles: true}}));
        part.blur(); return 1; }})()""")
    rest(browser)


def rest(browser):
    """As a reader does: look at what came of it before the next move."""
    time.sleep(0.5)
    browser.wait(f"{PANEL}.sessionContext.session.kernel.status === 'idle'", "the kernel")


def prompt(browser) -> str:
    return browser.run("explorer.querySelector('textarea').value")


def test_each_task_and_its_samples_are_answered(explorer):
    tasks = explorer.run("[...explorer.querySelector('select').options].map(each => each.value)")
    assert len(tasks) >= 4
    for task in tasks:
        before = prompt(explorer)
        choose(explorer, "select", task)
        if task != tasks[0]:
            explorer.wait(f"explorer.querySelector('textarea').value !== {json.dumps(before)}")
        explorer.wait("explorer.innerText.includes('truth:')")
        for step in ("1", "2"):
            choose(explorer, "input", step)
            explorer.wait("explorer.innerText.includes('model:')")


def test_a_prompt_that_cannot_be_asked_says_why_and_the_next_one_is_answered(explorer):
    good = prompt(explorer)
    for bad, words in (("", "the prompt is empty"), (good + "<image>", "placeholders"),
                       (good + " <image_15>", "<image_15>"), ("no image", "0 <image>")):
        choose(explorer, "textarea", bad)
        explorer.wait("explorer.innerText.includes('cannot be asked')", bad)
        assert words in said(explorer), said(explorer)
        choose(explorer, "textarea", good)
        explorer.wait("explorer.innerText.includes('model:')")


def test_thirty_quick_clicks_do_no_harm(explorer):
    for _ in range(30):
        explorer.run("explorer.querySelector('button').click(); 1")
    choose(explorer, "input", "0")
    explorer.wait("explorer.innerText.includes('truth:')")


def test_the_keyboard_is_enough(explorer):
    """From the list of tasks to the prompt, and the answer to what is typed there."""
    explorer.run("explorer.querySelector('select').focus(); 1")
    for _ in range(2):
        explorer.press("Tab")
    assert explorer.run("document.activeElement === explorer.querySelector('textarea')")
    explorer.run("document.activeElement.select(); 1")
    explorer.type("nothing to see")
    explorer.press("Tab")
    explorer.wait("explorer.innerText.includes('cannot be asked')")


def test_its_picture_has_its_own_size_and_its_answer_is_spoken(explorer):
    choose(explorer, "select", "compare")
    explorer.wait("explorer.innerText.includes('truth:')")
    shown, own, alt = explorer.run("(picture => [picture.width, picture.naturalWidth, "
                                   "picture.alt])(explorer.querySelector('img'))")
    assert 0 < shown <= own and alt.startswith("Image 1: ")
    assert explorer.run("!!explorer.querySelector('[aria-live=polite]')")


def test_after_a_restart_the_page_says_that_it_needs_its_kernel(explorer):
    explorer.run(f"{PANEL}.sessionContext.restartKernel().then(done => 1)")
    assert AGAIN in explorer.run("document.querySelector('.jp-Notebook').innerText")
    assert errors(explorer) == []


# --- lesson 04 ---------------------------------------------------------------------------------

def cell_with(browser, words) -> int:
    """The number of the cell whose source holds the words."""
    found = browser.run(f"{CELLS}.map((cell, k) => [k, cell.cell_type, cell.source.includes("
                        f"{json.dumps(words)})]).filter(e => e[1] === 'code' && e[2])")
    assert found, f"no cell with {words}"
    return found[0][0]


def test_lesson_04_stops_at_the_button_and_goes_on_where_it_stopped(browser, lab):
    """Twenty steps, the stop button, the cell that resumes: its plot keeps what came before."""
    steps = PROFILES["tiny"].on(TRAINED_IMAGES).training.steps      # the stored output says 3,000
    open_lesson(browser, lab, "04_training")
    set_images(browser, TRAINED_IMAGES)
    train, resume = cell_with(browser, "on_step=LiveLoss(settings.steps)"), cell_with(
        browser, "run = resume_run(lesson_checkpoint(profile)")
    run_command(browser, train, "notebook:run-all-above")
    assert errors(browser) == []
    run_command(browser, train, "notebook:run-cell", wait=False)
    browser.wait(f"20 <= {PROGRESS % train} && {PROGRESS % train} < {steps}", "20 steps")
    click(browser, ".jp-NotebookPanel-toolbar [data-jp-item-name=interrupt]")
    browser.wait(f"{PANEL}.sessionContext.session.kernel.status === 'idle'", "the kernel")
    stopped = browser.run(f"{PROGRESS % train}")
    assert 20 <= stopped < steps
    run_command(browser, resume, "notebook:run-cell", wait=False)
    browser.wait(f"{stopped + 5} <= {PROGRESS % resume} && {PROGRESS % resume} < {steps}",
                 "five steps more")
    words = browser.run(f"{TEXT % resume}")
    assert f"going on after step {stopped} of" in words
    browser.wait(f"{TEXT % resume}.includes('The training loss by step')", "the plot")
    assert first_step_of_the_plot(browser, resume) > stopped
    browser.run(f"{PANEL}.sessionContext.session.kernel.interrupt().then(done => 1)")
    browser.wait(f"{PANEL}.sessionContext.session.kernel.status === 'idle'", "the kernel")


# What a cell shows, as text; and the number of steps that its line of progress tells.
TEXT = f"JSON.stringify({PANEL}.content.model.cells.get(%d).toJSON().outputs)"
PROGRESS = f"Number(({TEXT}.match(/training: ([\\d,]+) of/) || [0, '0'])[1].replace(',', ''))"


def set_images(browser, count):
    """Give the kernel another VLM_SUBSET, before the lesson's first cell reads it."""
    browser.wait(f"{PANEL}.sessionContext.session?.kernel?.status === 'idle'", "the kernel")
    code = json.dumps(f"import os; os.environ['VLM_SUBSET'] = '{count}'")
    assert browser.run(f"{PANEL}.sessionContext.session.kernel.requestExecute({{code: {code}}})"
                       ".done.then(reply => reply.content.status)") == "ok"


def run_command(browser, cell, command, wait=True):
    browser.wait(f"{PANEL}.sessionContext.session?.kernel?.status === 'idle'", "the kernel")
    browser.run(f"{PANEL}.content.activeCellIndex = {cell}; window.ran = null; "
                f"jupyterapp.commands.execute('{command}').then("
                "done => window.ran = 'ended', error => window.ran = String(error)); 1")
    if wait:
        assert browser.wait("window.ran", command, 60 * MINUTES) == "ended"


def first_step_of_the_plot(browser, cell) -> int:
    """The step that the alternative text of a loss plot names."""
    return browser.run(f"Number({TEXT % cell}.match(/At step ([\\d,]+) of/)[1].replace(',', ''))")


def click(browser, selector):
    """Click with the mouse on the part that is in sight."""
    x, y = browser.run(f"(box => [box.x + box.width / 2, box.y + box.height / 2])("
                       f"[...document.querySelectorAll({json.dumps(selector)})].find("
                       "part => part.offsetParent).getBoundingClientRect())")
    for kind in ("mousePressed", "mouseReleased"):
        browser.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)
