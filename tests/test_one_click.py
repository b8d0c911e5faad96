"""Ways in without installing anything oneself: Colab, Binder, a container. One address for all."""

import json
import os
import re
import shutil
import stat
import subprocess
import sys
import sysconfig

import nbformat
import pytest

from vlm_utils.course import address, cells
from vlm_utils.course.colab import TAG, colab_cell, put_colab
from vlm_utils.profiles import REPOSITORY

NOTEBOOKS = sorted((REPOSITORY / "notebooks").glob("[0-9][0-9]_*.ipynb"))
ADDRESS = "https://github.com/somebody/course"


def lesson():
    return nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("# 01 · A lesson"),
                                           nbformat.v4.new_code_cell("1")])


def test_the_address_of_the_repository_stands_in_one_place():
    stored = address.stored_address()
    for path in NOTEBOOKS:
        notebook = nbformat.read(path, as_version=4)
        before = nbformat.writes(notebook)
        put_colab(notebook, path.stem, stored)
        assert nbformat.writes(notebook) == before, f"{path.name}: run `make notebooks`"
    if stored:
        texts = [*REPOSITORY.glob("*.md"), *REPOSITORY.glob(".*/*"),
                 *REPOSITORY.glob("vlm_utils/**/*.py")]
        assert [p.name for p in texts if p.is_file() and stored in p.read_text("utf-8")] == []


def test_link_and_cell_are_written_once_kept_up_to_date_and_removed():
    notebook = lesson()
    put_colab(notebook, "01_a", "https://github.com/old/place")
    put_colab(notebook, "01_a", ADDRESS)
    first, cell, last = notebook.cells
    assert first.source == ("# 01 · A lesson\n\n[Open this lesson in Colab](https://colab.research."
                            "google.com/github/somebody/course/blob/main/notebooks/01_a.ipynb).")
    assert cell.source == colab_cell(ADDRESS) and cell.metadata.tags == [TAG]
    assert last.source == "1" and "old/place" not in nbformat.writes(notebook)
    nbformat.validate(notebook)
    put_colab(notebook, "01_a", "")
    assert [each.source for each in notebook.cells] == ["# 01 · A lesson", "1"]


def test_sync_writes_it_with_the_address_of_the_project(tmp_path, monkeypatch):
    monkeypatch.setattr(cells, "stored_address", lambda: ADDRESS)
    nbformat.write(lesson(), tmp_path / "01_a.ipynb")
    cells.sync_lessons(tmp_path)
    assert nbformat.read(tmp_path / "01_a.ipynb", as_version=4).cells[1].source == \
        colab_cell(ADDRESS)


def test_runners_know_the_address_of_a_fork(monkeypatch):
    monkeypatch.setenv("GITHUB_REPOSITORY", "fork/course")
    monkeypatch.setenv("GITHUB_SERVER_URL", "https://github.com")
    assert address.repository_address() == "https://github.com/fork/course"
    monkeypatch.delenv("GITHUB_REPOSITORY")
    assert address.repository_address() == address.stored_address()


def test_the_cell_is_narrow_and_does_nothing_anywhere_else(tmp_path):
    source = colab_cell("https://github.com/a-long-name/for-an-account-of-this-course")
    assert max(map(len, source.split("\n"))) <= 76 and source.count("\n") < 25
    done = subprocess.run([sys.executable, "-c", source + "\nprint(os.getcwd())"], cwd=tmp_path,
                          capture_output=True, text=True, env=os.environ | {"PATH": ""}, check=True)
    assert done.stdout.strip() == str(tmp_path) and done.stderr == ""


@pytest.mark.skipif(shutil.which("git") is None, reason="no git to clone with")
def test_in_colab_the_cell_installs_the_wheel_and_a_lesson_finds_its_files(tmp_path):
    """In an environment of its own, which has the dependencies but no course, much like Colab."""
    clone = tmp_path / "origin"
    clone.mkdir()
    listed = subprocess.run(["git", "ls-files", "--cached", "--others", "--exclude-standard"],
                            cwd=REPOSITORY, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("no clone: which files belong to the project is not known")
    for name in listed.stdout.splitlines():
        if not name.startswith("tests/") and (REPOSITORY / name).is_file():
            (clone / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(REPOSITORY / name, clone / name)
    for words in (["init", "--quiet"], ["add", "."],
                  ["-c", "user.name=a", "-c", "user.email=a@b.c", "commit", "-qm", "all"]):
        subprocess.run(["git", *words], cwd=clone, check=True)
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "env"], check=True)
    python = tmp_path / "env" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    where = subprocess.run([python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
                           capture_output=True, text=True, check=True).stdout.strip()
    # After its own packages come those of this environment, without its .pth files: no course yet.
    (tmp_path / "env_path.txt").write_text(sysconfig.get_path("purelib"))
    shutil.copy(tmp_path / "env_path.txt", os.path.join(where, "dependencies.pth"))
    source = colab_cell(clone.as_uri(), (tmp_path / "content").as_posix())
    code = ("import sys, types; sys.modules['google.colab'] = types.ModuleType('google.colab')\n"
            f"{source}\nimport vlm_utils, pathlib\nfrom vlm_utils.profiles import data_folder\n"
            "print(vlm_utils.__file__); print(data_folder())\n"
            "print(pathlib.Path('../solutions/01_1_interleave.py').is_file())")
    surroundings = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {
        "PIP_NO_INDEX": "1", "PIP_NO_BUILD_ISOLATION": "0", "PIP_NO_DEPS": "1"}
    done = subprocess.run([python, "-c", code], cwd=tmp_path, capture_output=True, text=True,
                          env=surroundings, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    package, data, solutions = done.stdout.strip().split("\n")[-3:]
    assert package.startswith(where) and data.startswith(where) and solutions == "True"


@pytest.mark.skipif(os.name != "posix", reason="a script for the shells of Linux")
def test_binder_and_the_container_run_one_script_that_installs_with_the_constraints(tmp_path):
    """With a stand-in for Python, which writes down what it is asked to do."""
    container = json.loads((REPOSITORY / ".devcontainer/devcontainer.json").read_text("utf-8"))
    command = container["postCreateCommand"]
    assert command == "bash .binder/postBuild"
    assert (REPOSITORY / ".binder/postBuild").stat().st_mode & stat.S_IXUSR
    assert re.fullmatch(r"python-3\.\d+\n", (REPOSITORY / ".binder/runtime.txt").read_text("utf-8"))
    stand_in = tmp_path / "python"
    stand_in.write_text('#!/bin/sh\npwd\nfor word in "$@"; do echo "$word"; done\n')
    stand_in.chmod(0o755)
    done = subprocess.run(command.split(), cwd=REPOSITORY, capture_output=True, text=True,
                          env=os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}, check=True)
    first, second = [part.split("\n") for part in done.stdout.strip().split(f"{REPOSITORY}\n")[1:]]
    for words in (first, second):
        assert words[:3] == ["-m", "pip", "install"]
        assert words[words.index("--constraint") + 1] == "constraints.txt"
    assert "torch" in first and "https://download.pytorch.org/whl/cpu" in first
    assert second[-2:] == ["--editable", ".[site]"]


def test_the_container_opens_a_lesson_that_is_there():
    container = json.loads((REPOSITORY / ".devcontainer/devcontainer.json").read_text("utf-8"))
    command = container["postAttachCommand"].split()
    assert command[:4] == ["python", "-m", "jupyter", "lab"]
    assert (REPOSITORY / command[-1]).is_file() and container["forwardPorts"] == [8888]
