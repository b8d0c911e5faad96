"""The commands of the Makefile: what they run, and that JupyterLab opens the whole repository."""

import json
import os
import shlex
import shutil
import subprocess
import sys
import time
import urllib.request

import pytest

from vlm_utils.profiles import REPOSITORY

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="no make")


def dry_run(*arguments):
    """What make would run. `make test` may have started this test: a make within a make says so."""
    environment = {k: v for k, v in os.environ.items() if k not in ("MAKELEVEL", "MAKEFLAGS")}
    done = subprocess.run(["make", "--dry-run", *arguments], cwd=REPOSITORY, env=environment,
                          capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.mark.parametrize(("arguments", "command"), [
    (["check"], "vlm_utils check"), (["check", "PROFILE=full"], "vlm_utils check --profile full"),
    (["test"], "pytest --nbval-lax --nbval-current-env tests notebooks")])
def test_make_runs_the_command(arguments, command):
    assert dry_run(*arguments).endswith(command)


def test_no_command_sets_a_limit_that_does_not_follow_the_machine():
    paths = [REPOSITORY / name for name in ("Makefile", "README.md", "instructors.md",
                                            "CONTRIBUTING.md", "vlm_utils/course/runner.py")]
    paths += (REPOSITORY / ".github" / "workflows").glob("*.yml")
    assert [path.name for path in paths
            if "nbval-cell-timeout" in path.read_text(encoding="utf-8")] == []


def test_lab_opens_lesson_01_and_shows_the_whole_repository(tmp_path):
    command = shlex.split(dry_run("lab").split("\n")[-1])
    assert command[0].endswith("python")
    folders = {f"JUPYTER_{name}_DIR": str(tmp_path / name)
               for name in ("RUNTIME", "CONFIG", "DATA")}
    server = subprocess.Popen(
        [sys.executable, *command[1:], "--no-browser", "--allow-root", "--ServerApp.port=0",
         "--ServerApp.token=lesson"],
        cwd=REPOSITORY, env=os.environ | folders, stderr=subprocess.DEVNULL)
    try:
        assert command[-1] == "notebooks/01_architecture.ipynb"    # what the browser opens
        until(lambda: next((tmp_path / "RUNTIME").glob("jpserver-*-open.html"), None))
        started = json.loads(next((tmp_path / "RUNTIME").glob("jpserver-*.json")).read_text())
        address = f"http://127.0.0.1:{started['port']}/api/contents?token=lesson"
        listed = json.load(urllib.request.urlopen(address, timeout=60))
        names = {entry["name"] for entry in listed["content"]}
        assert {"notebooks", "solutions", "vlm_utils", "README.md"} <= names
    finally:
        server.kill()
        server.wait()


def until(found, seconds=120):
    """Wait for something to be there."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if result := found():
            return result
        time.sleep(0.1)
    raise TimeoutError
