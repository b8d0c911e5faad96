"""uv.lock: constraints.txt's versions, pyproject.toml's dependencies, the public index's files."""

import re
import shutil
import subprocess
import tomllib

import pytest
from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from vlm_utils.profiles import REPOSITORY

AGAIN = "write it again: uv lock $(sed 's/^/--upgrade-package /' constraints.txt)"
LOCK = tomllib.loads((REPOSITORY / "uv.lock").read_text(encoding="utf-8"))
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
OURS = canonicalize_name(PROJECT["name"])
PACKAGES = {package["name"]: package for package in LOCK["package"]}
# The parts of CUDA that torch brings on Linux: pip chooses them by torch's version as well.
OF_CUDA = re.compile(r"nvidia-|cuda-|triton$")
SYSTEMS = [{"sys_platform": "linux", "platform_system": "Linux", "os_name": "posix"},
           {"sys_platform": "darwin", "platform_system": "Darwin", "os_name": "posix"},
           {"sys_platform": "win32", "platform_system": "Windows", "os_name": "nt"}]


def pinned() -> dict[str, str]:
    lines = (REPOSITORY / "constraints.txt").read_text(encoding="utf-8").split()
    return {canonicalize_name(name): version
            for name, version in (line.split("==") for line in lines)}


def installed(system: dict[str, str], python: str, extras: list[str]) -> set[str]:
    """Names that `uv sync` with these extras installs on a system, from the lock alone."""
    surroundings = system | {
        "python_full_version": python, "python_version": ".".join(python.split(".")[:2]),
        "implementation_name": "cpython", "platform_python_implementation": "CPython",
        "platform_machine": "x86_64"}
    found: set[tuple[str, str]] = set()
    left = [(OURS, ""), *((OURS, extra) for extra in extras)]
    while left:
        name, extra = left.pop()
        if (name, extra) in found:
            continue
        found.add((name, extra))
        package = PACKAGES[name]
        of = package.get("optional-dependencies", {}).get(extra, []) if extra else package.get(
            "dependencies", [])
        for wanted in of:
            if "marker" in wanted and not Marker(wanted["marker"]).evaluate(surroundings):
                continue
            left += [(wanted["name"], each) for each in ["", *wanted.get("extra", [])]]
    return {name for name, _ in found} - {OURS}


def test_the_lock_has_each_package_once_and_ours_in_the_repository():
    assert len(PACKAGES) == len(LOCK["package"]) > 150
    assert PACKAGES[OURS]["source"] == {"editable": "."}
    assert PACKAGES[OURS]["version"] == PROJECT["version"]


def test_versions_are_those_of_the_constraints():
    """A trap: two files of versions, of which only one is ever tried."""
    other = {name: (version, PACKAGES[name]["version"]) for name, version in pinned().items()
             if name in PACKAGES and PACKAGES[name]["version"] != version}
    assert other == {}, f"constraints.txt and uv.lock differ: {AGAIN}"


@pytest.mark.parametrize("python", ["3.11.7", "3.13.2"])
@pytest.mark.parametrize("system", SYSTEMS, ids=lambda system: system["sys_platform"])
def test_what_uv_installs_is_pinned_for_pip_as_well(system, python):
    """A trap: what only another system or a newer Python needs is in no list of what is here."""
    names = installed(system, python, ["test", "site", "video"])
    assert {"torch", "transformers", "jupyterlab", "pytest", "sphinx", "av"} <= names
    assert {name for name in names - set(pinned()) if not OF_CUDA.match(name)} == set()


def test_only_torch_brings_what_is_not_pinned():
    linux = installed(SYSTEMS[0], "3.11.7", ["test", "site", "video"])
    cuda = {name for name in linux if OF_CUDA.match(name)}
    bringing = {name for name in linux - cuda for wanted in PACKAGES[name].get("dependencies", [])
                if wanted["name"] in cuda}
    assert bringing == {"torch"}
    assert not any(OF_CUDA.match(name) for system in SYSTEMS[1:]
                   for name in installed(system, "3.11.7", ["test", "site"]))


def test_dependencies_and_extras_are_those_of_the_project():
    asked = {(canonicalize_name(each.name), str(each.specifier), extra)
             for extra, texts in [("", PROJECT["dependencies"]),
                                  *PROJECT["optional-dependencies"].items()]
             for each in map(Requirement, texts)}
    metadata = PACKAGES[OURS]["metadata"]
    locked = set()
    for each in metadata["requires-dist"]:
        extra = re.fullmatch(r"(?:extra == '(\w+)')?", each.get("marker", ""))[1] or ""
        locked.add((each["name"], each["specifier"], extra))
    assert locked == asked, f"pyproject.toml and uv.lock differ: {AGAIN}"
    assert sorted(metadata["provides-extras"]) == sorted(PROJECT["optional-dependencies"])
    assert LOCK["requires-python"] == PROJECT["requires-python"]


def test_all_comes_from_the_public_index_with_its_hash():
    """A trap: a lock that was made beside a mirror sends everybody there."""
    for name, package in PACKAGES.items():
        if name == OURS:
            continue
        assert package["source"] == {"registry": "https://pypi.org/simple"}, name
        files = [*package.get("wheels", []), *([package["sdist"]] if "sdist" in package else [])]
        assert files, name
        for file in files:
            assert file["url"].startswith("https://files.pythonhosted.org/packages/"), file
            assert re.fullmatch(r"sha256:[0-9a-f]{64}", file["hash"]), file
    text = (REPOSITORY / "uv.lock").read_text(encoding="utf-8")
    hosts = set(re.findall(r"https?://([^/\"]+)", text))
    assert hosts == {"pypi.org", "files.pythonhosted.org"}


@pytest.mark.parametrize("system", ["manylinux", "macosx", "win_amd64"])
def test_the_large_packages_have_a_wheel_for_each_system(system):
    for name in ("torch", "numpy", "pyarrow", "scipy", "pillow"):
        assert any(system in wheel["url"] for wheel in PACKAGES[name]["wheels"]), name


def test_make_goes_on_in_an_environment_of_uv(tmp_path):
    """A trap: uv's environment has no pip, and `make lab` after `uv sync` would fail at it."""
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(REPOSITORY / name, tmp_path)
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv" / "pyvenv.cfg").write_text("home = /usr/bin\nuv = 0.13.9\n")
    uv = tmp_path / "uv"
    uv.write_text('#!/bin/sh\necho "uv $@"\n')
    uv.chmod(0o755)
    if shutil.which("make") is None:
        pytest.skip("no make")
    done = subprocess.run(["make", ".venv/.installed"], cwd=tmp_path, capture_output=True,
                          text=True, env={"PATH": f"{tmp_path}:/usr/bin:/bin"}, check=False)
    assert done.returncode == 0, done.stderr
    assert "uv sync --extra test --extra site" in done.stdout.splitlines()
    assert (tmp_path / ".venv" / ".installed").is_file()


def test_uv_itself_finds_the_lock_up_to_date():
    uv = shutil.which("uv")
    if uv is None:
        pytest.skip("uv is not installed: the lock was compared as text only")
    done = subprocess.run([uv, "lock", "--check", "--offline"], cwd=REPOSITORY,
                          capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{done.stderr}\n{AGAIN}"
