"""A repository that cannot be written to, as on a server for many: VLM_OUTPUT is enough.

Nothing is made read-only here, which would not hold for the superuser: in every Python that a
command starts, an audit hook refuses to write below the repository, as a read-only disk does.
"""

import os
import subprocess
import sys

import pytest

from vlm_utils.profiles import REPOSITORY

HOOK = f"""
import os, sys
REPOSITORY = {str(REPOSITORY)!r} + os.sep
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND

def refuse(event, arguments):
    paths = ()
    if event == "open" and isinstance(arguments[2], int) and arguments[2] & WRITES:
        paths = arguments[:1]
    elif event in ("os.mkdir", "os.remove", "os.rmdir", "os.truncate"):
        paths = arguments[:1]
    elif event in ("os.rename", "os.link", "os.symlink"):
        paths = arguments[:2]
    for path in paths:
        if isinstance(path, bytes):
            path = os.fsdecode(path)
        # Python keeps compiled modules where it may, and goes on where it may not.
        if isinstance(path, (str, os.PathLike)) and os.path.abspath(path).startswith(
                REPOSITORY) and "__pycache__" not in os.fspath(path):
            raise PermissionError(30, "Read-only file system", os.fspath(path))

sys.addaudithook(refuse)
"""


@pytest.fixture
def read_only(tmp_path):
    """A function that runs a Python with these arguments over a repository that is read-only."""
    (tmp_path / "hook").mkdir()
    (tmp_path / "hook" / "sitecustomize.py").write_text(HOOK)

    def run(*arguments, output: bool = True):
        environment = os.environ | {
            "PYTHONPATH": f"{tmp_path / 'hook'}{os.pathsep}{REPOSITORY}", "VLM_SUBSET": "16"}
        environment.pop("VLM_OUTPUT", None)
        if output:
            environment["VLM_OUTPUT"] = str(tmp_path / "mine")
        return subprocess.run([sys.executable, *arguments], env=environment, cwd=REPOSITORY,
                              capture_output=True, text=True)
    return run


def test_the_hook_refuses_what_a_read_only_disk_refuses(read_only):
    """Else the tests below could pass on anything."""
    for code in ("open('made', 'w')", "import os; os.mkdir('build/made')",
                 "from pathlib import Path; Path('README.md').rename('made')",
                 "import numpy; numpy.save('made.npy', [1])"):
        done = read_only("-c", code)
        assert "Read-only file system" in done.stderr, code
    assert read_only("-c", "open('README.md').read()").returncode == 0


def test_the_lesson_that_writes_most_runs_if_it_may_write_elsewhere(read_only, tmp_path):
    done = read_only("-m", "vlm_utils", "course", "04")
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "mine" / "tiny_16_images" / "lesson_04" / "model.safetensors").is_file()
    assert list((tmp_path / "mine" / "features").glob("*/features.arrow"))


def test_a_check_runs_too(read_only, tmp_path):
    done = read_only("-m", "vlm_utils", "check", "01")
    assert done.returncode == 0 and " passed" in done.stdout, done.stdout + done.stderr
    assert (tmp_path / "mine" / "check.html").is_file()


def test_doctor_names_the_setting_that_helps(read_only):
    """Asked for this alone: what else it looks at takes longer, and has tests of its own."""
    said = read_only("-c", "from vlm_utils.course import doctor; found = doctor.build_folder(); "
                     "print(found.level, found.text)", output=False).stdout
    assert said.startswith("MISSING ") and "set VLM_OUTPUT to a folder" in said
