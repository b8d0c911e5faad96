"""instructors.md: each command in it is run, here or by the test that is named here."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from test_commands import dry_run
from test_read_only import HOOK

from vlm_utils import __main__ as command
from vlm_utils.course.report import CellRun, LessonRun, to_html
from vlm_utils.course.site import build, stored_site
from vlm_utils.profiles import REPOSITORY

TEXT = (REPOSITORY / "instructors.md").read_text(encoding="utf-8")
SPANS = re.findall(r"`([^`\n]+)`", TEXT)
BLOCKS = [block.strip().split("\n") for block in re.findall(r"(?:^    \S.*\n)+", TEXT, re.M)]
# The words that a command begins with; what is left is a file, a setting or a name.
COMMAND = re.compile(r"(make|git|python|docker|mkdir|cp|export|set) |VLM_\w+=\S+ \S")
# Run by another test, which is named; all others are run below.
ELSEWHERE = {
    "make lab": "test_commands::test_lab_opens_lesson_01_and_shows_the_whole_repository",
    "make check": "test_commands::test_make_runs_the_command",
    "make check PROFILE=full": "test_commands::test_make_runs_the_command",
    "python -m vlm_utils check 03 05": "test_read_only::test_a_check_runs_too",
    "python -m vlm_utils course 04":
        "test_read_only::test_the_lesson_that_writes_most_runs_if_it_may_write_elsewhere",
    "python -m vlm_utils doctor --profile full":
        "test_doctor::test_the_full_profile_without_its_files_is_not_ready",
    "python -m vlm_utils prefetch --folder course_files":
        "test_hub_server::test_a_whole_download_and_then_the_course_without_a_network",
    "export HF_HUB_CACHE=/media/course_files":
        "test_hub::test_a_folder_can_be_carried_to_a_machine_without_a_network",
    "set HF_HUB_CACHE=E:\\course_files":
        "test_hub::test_a_folder_can_be_carried_to_a_machine_without_a_network",
    "VLM_PROFILE=full VLM_SUBSET=16 make check":
        "test_full_profile::test_all_lessons_run_in_the_full_profile"}
HERE = {"make site", "make notebooks", "make clean", "VLM_PROFILE=full make lab",
        "git checkout notebooks", "python -m vlm_utils doctor", "python -m vlm_utils progress",
        "python -m vlm_utils progress --notebooks ~student/course/notebooks",
        "python -m jupyter nbconvert --clear-output --inplace notebooks/*.ipynb",
        "cp -rL"}


def commands() -> list[str]:
    """Every command of the page, in a line of text or in a block."""
    found = [text for text in SPANS if COMMAND.match(text + " ") and not text.endswith("=folder")]
    return list(dict.fromkeys(found + [line for block in BLOCKS for line in block]))


def block_with(words: str) -> list[str]:
    return next(block for block in BLOCKS if any(words in line for line in block))


def in_shell(line: str, folder: Path, **environment) -> subprocess.CompletedProcess:
    """A line as a POSIX shell runs it in a folder; `python` is this one."""
    binaries = folder.parent / "binaries"
    binaries.mkdir(exist_ok=True)
    if not (binaries / "python").exists():
        (binaries / "python").write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
        (binaries / "python").chmod(0o755)
    surroundings = os.environ | {"PATH": f"{binaries}:{os.environ['PATH']}",
                                 "PYTHONPATH": str(REPOSITORY)} | environment
    return subprocess.run(["sh", "-c", line], cwd=folder, env=surroundings, capture_output=True,
                          text=True, check=False)


posix = pytest.mark.skipif(os.name != "posix", reason="lines for the shells of Linux and macOS")


def test_every_command_is_run_by_a_test():
    found = commands()
    assert len(found) > 18
    blocks = [line for words in ("docker run", "cp -r /srv/course") for line in block_with(words)]
    assert [line for line in found if line not in {*ELSEWHERE, *HERE, *blocks}] == []
    assert {*ELSEWHERE, *HERE} <= set(found), "a command is gone from instructors.md"
    for place in ELSEWHERE.values():
        file, name = place.split("::")
        text = (REPOSITORY / "tests" / f"{file}.py").read_text(encoding="utf-8")
        assert f"def {name}(" in text, place


@pytest.mark.skipif(shutil.which("make") is None, reason="no make")
def test_what_make_runs():
    assert dry_run("site").endswith("vlm_utils site")
    assert dry_run("notebooks").split("\n")[-2:] == [
        ".venv/bin/python -m vlm_utils sync", ".venv/bin/python -m vlm_utils course --write"]
    assert dry_run("clean") == "rm -rf .venv build"
    assert dry_run("lab").endswith("notebooks/01_architecture.ipynb")


@posix
def test_the_lines_about_resetting_do_what_they_say(tmp_path):
    """In a small clone: two lessons, changed, come back; outputs go and the sources stay."""
    clone = tmp_path / "clone"
    (clone / "notebooks").mkdir(parents=True)
    for name in ("02_datasets", "03_collate"):
        shutil.copy(REPOSITORY / "notebooks" / f"{name}.ipynb", clone / "notebooks")
    kept = {path: path.read_bytes() for path in (clone / "notebooks").iterdir()}
    first = in_shell("git init -q . && git add . && git -c user.name=a -c user.email=a@b "
                     "commit -qm lessons", clone)
    assert first.returncode == 0, first.stderr
    line, = (text for text in SPANS if "--clear-output" in text)
    done = in_shell(line, clone)
    assert done.returncode == 0, done.stderr
    for path, before in kept.items():
        old = nbformat.reads(before.decode(), as_version=4)
        new = nbformat.read(path, as_version=4)
        assert [cell.source for cell in new.cells] == [cell.source for cell in old.cells]
        assert any(cell.get("outputs") for cell in old.cells)
        assert not any(cell.get("outputs") for cell in new.cells)
    assert in_shell("git checkout notebooks", clone).returncode == 0
    assert kept == {path: path.read_bytes() for path in kept}


def test_doctor_and_progress_answer(monkeypatch, capsys):
    doctor = subprocess.run([sys.executable, "-m", "vlm_utils", "doctor"], cwd=REPOSITORY,
                            capture_output=True, text=True, check=False)
    assert "python" in doctor.stdout and doctor.returncode in (0, 1), doctor.stderr
    monkeypatch.setattr("sys.argv", ["vlm_utils", "progress"])
    assert command.main() == 0 and re.search(r"\d+ of \d+", capsys.readouterr().out)


@posix
def test_a_student_of_a_shared_machine_needs_three_lines(tmp_path):
    """The repository is read-only, the lessons are a copy, and all that is made is the student's:
    lesson 05, which reads benchmarks/, runs from top to bottom."""
    enter, copy, lab = block_with("cp -r /srv/course")
    home = tmp_path / "home"
    home.mkdir()
    (tmp_path / "hook").mkdir()
    (tmp_path / "hook" / "sitecustomize.py").write_text(HOOK)
    course = shlex.quote(str(REPOSITORY))
    done = in_shell(f"{enter} && {copy.replace('/srv/course', course)}", home)
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in (home / "course").iterdir()) == [
        "benchmarks", "notebooks", "solutions"]
    setting, python, *start, lesson = shlex.split(lab)
    assert setting == "VLM_OUTPUT=build" and start == ["-m", "jupyter", "lab"]
    assert python == "/srv/course/.venv/bin/python" and (home / "course" / lesson).is_file()
    run = ("from pathlib import Path; from vlm_utils.course.runner import run_lesson; "
           "done = run_lesson(Path('notebooks/05_evaluation.ipynb'), Path('executed'), page=False);"
           "print(done.fault() or 'good')")
    (home / "course" / "executed").mkdir()
    paths = f"{tmp_path / 'hook'}:{REPOSITORY}"
    done = in_shell(f"{setting} python -c {shlex.quote(run)}", home / "course", PYTHONPATH=paths,
                    VLM_SUBSET="16")
    assert done.stdout.strip().split("\n")[-1] == "good", done.stdout + done.stderr
    assert list((home / "course" / "build").rglob("features.arrow"))
    far = in_shell("python -m vlm_utils progress --notebooks notebooks", home / "course",
                   PYTHONPATH=paths)
    assert re.search(r"\d+ of \d+", far.stdout), far.stdout + far.stderr


@posix
def test_the_container_installs_and_opens_a_lesson_that_is_there(tmp_path):
    """With stand-ins for Docker and for Python, which write down what they are asked to do."""
    line, = block_with("docker run")
    docker = tmp_path / "binaries" / "docker"
    docker.parent.mkdir()
    docker.write_text('#!/bin/sh\nfor word in "$@"; do echo "$word"; done\n')
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\necho "python $*"\n')
    for program in (docker, python):
        program.chmod(0o755)
    (tmp_path / "here").mkdir()
    words = in_shell(line, tmp_path / "here").stdout.strip().split("\n")
    assert words[words.index("-v") + 1] == f"{tmp_path / 'here'}:/course"
    assert words[words.index("-w") + 1] == "/course"
    assert words[words.index("-p") + 1] == "127.0.0.1:8888:8888"       # not for the whole network
    image, *inside = words[words.index("/course") + 1:]
    assert image == "python:3.11" and inside[:2] == ["bash", "-c"]
    done = subprocess.run(inside, cwd=REPOSITORY, capture_output=True, text=True, check=True,
                          env=os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"})
    *install, lab = done.stdout.strip().split("\n")
    assert len(install) == 2 and all("--constraint constraints.txt" in step for step in install)
    assert lab.startswith("python -m jupyter lab --ip=0.0.0.0 ")
    assert (REPOSITORY / lab.split()[-1]).is_file()


def test_there_is_a_session_for_each_row_of_the_plan():
    words = {"six": 6, "eight": 8, "ten": 10, "eleven": 11, "twelve": 12, "thirteen": 13}
    said = words[re.search(r"^(\w+) sessions", TEXT, re.M)[1].lower()]
    rows = re.findall(r"^\| (\d+) \| (\d\d) ", TEXT, re.M)
    assert [int(number) for number, _ in rows] == list(range(1, said + 1))
    lessons = {path.name[:2] for path in (REPOSITORY / "notebooks").glob("[0-9][0-9]_*.ipynb")}
    assert {lesson for _, lesson in rows} == lessons


def test_the_table_of_the_last_check_is_a_page_of_the_site(tmp_path, monkeypatch):
    """`make check` leaves check.html, and `make site` after it takes the table from there."""
    lesson = LessonRun("04_training", [CellRun(1, "import a < b", "ok", 3.21, 456)])
    (tmp_path / build.CHECKED).write_text(to_html([lesson], "a note"), encoding="utf-8")
    given = {}

    def keep(folder, target, executed=None, measured=""):
        given["measured"] = measured
        return []

    monkeypatch.setattr(build, "build_site", keep)
    assert stored_site(REPOSITORY / "notebooks", tmp_path) == 0
    for part in ("<h2>04_training</h2>", ">3.21</td>", ">456</td>", "import a &lt; b",
                 "a note"):
        assert part in given["measured"], part
    assert "<body" not in given["measured"] and "<h1" not in given["measured"]
