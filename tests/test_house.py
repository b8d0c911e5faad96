"""The repository itself: versions in one place, arrows one way, nothing of one machine."""

import ast
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from vlm_utils import profiles
from vlm_utils.course import doctor
from vlm_utils.loading import lesson_checkpoint
from vlm_utils.profiles import REPOSITORY

# The rooms of the package. Each imports only from rooms above its own line.
ORDER = (
    ("profiles", "architecture", "plots", "memory"),
    ("tiny_earth", "sources", "cross_attention"),
    ("loading",),
    ("datasets",),
    ("collate",),
    ("answering",),
    ("training", "evaluation"),
    ("time_series", "scaling"),
    ("real_data",),
    ("widgets",),
    ("making",),
    ("check",),
    ("course",),
)
MOST_ENTRIES, MOST_LINES, MOST_OF_A_FUNCTION = 22, 350, 50
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def package_name(requirement: str) -> str:
    """The name in a requirement, as package indexes compare names."""
    return re.sub(r"[-_.]+", "-", re.match(r"[A-Za-z0-9._-]+", requirement)[0]).lower()


def extras() -> list[str]:
    """What the extras `test` and `site` ask for."""
    return [text for texts in PROJECT["optional-dependencies"].values() for text in texts]


def constraints() -> dict[str, str]:
    lines = (REPOSITORY / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = [line for line in lines if line.strip() and not line.startswith("#")]
    return {package_name(line): line for line in pinned}


# --- installing --------------------------------------------------------------------------------

def test_conda_gives_python_and_pip_and_pip_the_project_with_its_constraints():
    text = (REPOSITORY / "environment.yml").read_text(encoding="utf-8")
    environment = yaml.safe_load(text)
    *conda, last = environment["dependencies"]
    assert conda == ["python", "pip"]
    lines = last["pip"]
    assert any(re.fullmatch(r"(-c|--constraint) constraints\.txt", line) for line in lines)
    assert any(re.fullmatch(r"(-e|--editable) \.(\[test,site\])?", line) for line in lines)
    assert len(lines) == 2
    assert not re.search(r"\d", yaml.dump(environment)), "a version stands in environment.yml"


def test_constraints_pin_every_dependency_and_no_cuda_package():
    pinned = constraints()
    wanted = PROJECT["dependencies"] + extras()
    assert [name for name in map(package_name, wanted) if name not in pinned] == []
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", line) for line in pinned.values())
    assert [n for n in pinned if re.search("nvidia|cuda|triton|cudnn|cublas", n)] == []


def test_dependencies_have_lower_bounds_that_the_constraints_keep():
    from packaging.requirements import Requirement
    for text in PROJECT["dependencies"] + extras():
        requirement = Requirement(text)
        assert [s.operator for s in requirement.specifier] == [">="], text
        version = constraints()[package_name(text)].split("==")[1]
        assert requirement.specifier.contains(version, prereleases=True), text


def test_every_pinned_package_runs_on_the_oldest_python_that_is_promised():
    """A trap: pins that are made on a newer Python cannot be installed on an older one."""
    from importlib import metadata

    from packaging.specifiers import SpecifierSet
    oldest = PROJECT["requires-python"].removeprefix(">=")
    assert oldest == ".".join(map(str, doctor.PYTHON))
    wanted = {}
    for name in constraints():
        try:
            wanted[name] = metadata.metadata(name)["Requires-Python"] or ""
        except metadata.PackageNotFoundError:       # of another system, or of an extra
            continue
    assert len(wanted) > 100
    assert {name: text for name, text in wanted.items()
            if not SpecifierSet(text).contains(oldest)} == {}


def test_every_import_of_the_package_is_a_dependency():
    """What is only there because something else brings it may be gone tomorrow."""
    names = {"PIL": "pillow", "IPython": "jupyterlab", "huggingface_hub": "transformers",
             "safetensors": "transformers", "nbformat": "nbval", "nbclient": "jupyterlab",
             "nbconvert": "jupyterlab", "tqdm": "datasets", "pyarrow": "datasets",
             "tokenizers": "transformers", "pytest": "nbval", "jupyter_client": "jupyterlab",
             "filelock": "datasets", "xxhash": "datasets"}
    declared = {package_name(text) for text in PROJECT["dependencies"]}
    used = {name.split(".")[0] for path in modules().values() for name in imports(path)}
    # Its absence has a message of its own: sources/video.py.
    optional = {"av"}
    foreign = used - set(sys.stdlib_module_names) - {"vlm_utils"} - optional
    assert {n for n in foreign if names.get(n, n).lower() not in declared} == set()


def check_workflows(*paths: Path) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.github-workflows",
         *map(str, paths)], capture_output=True, text=True)


def test_workflows_follow_the_published_schema():
    paths = list((REPOSITORY / ".github" / "workflows").glob("*.y*ml"))
    assert len(paths) >= 2
    done = check_workflows(*paths)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_schema_finds_a_mistake(tmp_path):
    """Else the test above could pass without looking."""
    wrong = tmp_path / "wrong.yml"
    wrong.write_text("on: push\njobs:\n  test:\n    runs_on: ubuntu-latest\n")
    done = check_workflows(wrong)
    assert done.returncode != 0 and "runs_on" in done.stdout + done.stderr


def test_lessons_run_on_three_systems_and_a_gpu():
    found = [yaml.safe_load(path.read_text(encoding="utf-8"))
             for path in (REPOSITORY / ".github" / "workflows").glob("*.y*ml")
             if path.stem != "site"]        # executes nothing; tests/test_site.py looks at it
    jobs = [job for workflow in found for job in workflow["jobs"].values()]
    systems = {system for job in jobs
               for system in job.get("strategy", {}).get("matrix", {}).get("os", [])}
    assert {name.split("-")[0] for name in systems} == {"ubuntu", "macos", "windows"}
    assert any("self-hosted" in job["runs-on"] and "gpu" in job["runs-on"] for job in jobs)
    for job in jobs:
        assert job["env"]["VLM_PROFILE"] == "tiny"
        assert any("nbval" in step.get("run", "") for step in job["steps"])


def test_ci_runs_the_command_of_the_readme():
    script = REPOSITORY / ".ci" / "run"
    assert re.search(r"^(exec )?make test$", script.read_text(encoding="utf-8"), re.M)
    if os.name == "posix":
        assert os.access(script, os.X_OK)
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    for target in ("course", "test", "lab"):
        assert re.search(rf"^{target}:", makefile, re.M)


# --- modules -----------------------------------------------------------------------------------

PACKAGE = REPOSITORY / "vlm_utils"


def modules() -> dict[str, Path]:
    """Every module of the package by its dotted name, as "training.loop"."""
    return {".".join(path.relative_to(PACKAGE).with_suffix("").parts): path
            for path in sorted(PACKAGE.rglob("*.py"))}


def imports(path: Path) -> set[str]:
    """Every module that a file imports, at its top or inside a function."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}: a relative import"
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def siblings(name: str, path: Path) -> set[str]:
    """The modules of this package that a file imports, each by its dotted name.

    A folder stands for its __init__, which is what Python runs then.
    """
    known = modules()
    found = {full.removeprefix("vlm_utils.") for full in imports(path)
             if full.startswith("vlm_utils.")}
    return {name if name in known else f"{name}.__init__" for name in found
            if name in known or f"{name}.__init__" in known}


def arrows_against(order, arrows: dict[str, set[str]]) -> list[str]:
    """Imports from a module to one whose room does not stand above its own."""
    line = {room: i for i, rooms in enumerate(order) for room in rooms}
    found = []
    for name, targets in arrows.items():
        for target in sorted(targets):
            here, there = name.split(".")[0], target.split(".")[0]
            if here != there and line[there] >= line[here]:
                found.append(f"{name} -> {target}")
    return found


def circles(arrows: dict[str, set[str]]) -> list[str]:
    """Modules that import each other, directly or by way of others."""
    waiting = {name: set(targets) & set(arrows) for name, targets in arrows.items()}
    while free := [name for name, targets in waiting.items() if not targets]:
        for name in free:
            del waiting[name]
        waiting = {name: targets - set(free) for name, targets in waiting.items()}
    return sorted(waiting)


def arrows() -> dict[str, set[str]]:
    """What each module imports of the package; the entry points stand outside the order."""
    return {name: siblings(name, path) for name, path in modules().items()
            if name not in ("__init__", "__main__")}


def test_every_room_has_its_place_in_the_order():
    rooms = {name.split(".")[0] for name in arrows()}
    assert rooms == {room for rooms in ORDER for room in rooms}


def test_arrows_point_one_way():
    assert arrows_against(ORDER, arrows()) == []


def test_no_module_imports_itself_by_way_of_others():
    assert circles(arrows()) == []


def test_arrows_are_read_from_the_source_and_wrong_ones_are_found():
    """The tests above see what there is to see."""
    found = arrows()
    assert {"datasets.__init__", "architecture.__init__"} <= found["collate"]
    assert "datasets.__init__" in found["course.doctor"]   # imported inside a function
    assert arrows_against(ORDER, {"loading": {"training.loop"}, "collate": {"loading"}}) == \
        ["loading -> training.loop"]
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == ["a", "b", "c", "d"]


def test_the_map_is_short_and_names_each_lesson():
    entries = {path.name for path in PACKAGE.iterdir() if path.name != "__pycache__"}
    assert len(entries) <= MOST_ENTRIES
    text = ast.get_docstring(ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8")))
    for notebook in sorted((REPOSITORY / "notebooks").glob("[0-9][0-9]_*.ipynb")):
        line = next(line for line in text.splitlines() if line.strip().startswith(notebook.stem))
        room = line.split()[-1].strip("/")
        assert room in entries or f"{room}.py" in entries, notebook.stem


def test_modules_and_functions_are_short():
    for name, path in modules().items():
        text = path.read_text(encoding="utf-8")
        assert text.count("\n") <= MOST_LINES, name
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = node.end_lineno - node.lineno + 1
                assert lines <= MOST_OF_A_FUNCTION, f"{name}.{node.name}: {lines} lines"


def test_a_room_of_several_files_only_re_exports():
    for name, path in modules().items():
        if name.endswith(".__init__"):
            body = ast.parse(path.read_text(encoding="utf-8")).body
            assert all(isinstance(node, ast.Import | ast.ImportFrom | ast.Expr)
                       or (isinstance(node, ast.Assign) and node.targets[0].id == "__all__")
                       for node in body), name


def test_the_package_is_light_to_import():
    """The command line and the profiles answer at once, without torch."""
    code = "import sys, vlm_utils, vlm_utils.profiles; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=REPOSITORY)


# --- nothing of one machine --------------------------------------------------------------------

def tracked_texts() -> list[Path]:
    try:
        listed = subprocess.run(["git", "ls-files", "--cached", "--others", "--exclude-standard"],
                                cwd=REPOSITORY, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no git, or no clone: which files belong to the project is not known")
    suffixes = {".py", ".md", ".ipynb", ".toml", ".yml", ".yaml", ".txt", ".json", ""}
    paths = [REPOSITORY / name for name in listed.stdout.splitlines()]
    return [path for path in paths if path.suffix in suffixes and path.is_file()]


def test_no_file_holds_a_path_of_a_home_directory():
    pattern = re.compile(r"/(root|home|Users)/" + r"\w")
    found = [f"{path.relative_to(REPOSITORY)}: {line.strip()[:80]}" for path in tracked_texts()
             for line in path.read_text(encoding="utf-8").splitlines() if pattern.search(line)]
    assert found == []


def test_no_text_names_a_page_that_is_not_here():
    """A reader of this repository has no other pages."""
    here = {path.name for path in tracked_texts()}
    named = {(path.name, page) for path in tracked_texts()
             for page in re.findall(r"\b[A-Z]{3,}\.md\b", path.read_text(encoding="utf-8"))}
    assert len(named) >= 3
    assert {(where, page) for where, page in named if page not in here} == set()


def test_the_top_level_holds_what_was_agreed():
    tops = {path.relative_to(REPOSITORY).parts[0] for path in tracked_texts()}
    assert tops <= {"notebooks", "vlm_utils", "data", "tests", "environment.yml", "README.md",
                    "pyproject.toml", "constraints.txt", "Makefile", "LICENSE", "CONTRIBUTING.md",
                    ".ci", ".github", ".binder", ".devcontainer", ".gitignore", ".gitattributes",
                    "benchmarks", "solutions", "instructors.md", "cluster.md"}


# --- settings ----------------------------------------------------------------------------------

def test_the_environment_chooses_the_profile(monkeypatch):
    assert profiles.get_profile().name == "tiny"
    monkeypatch.setenv("VLM_PROFILE", "full")
    assert profiles.get_profile().name == "full"
    assert profiles.get_profile("tiny").name == "tiny"


def test_an_unknown_profile_is_refused_and_the_known_ones_named(monkeypatch):
    monkeypatch.setenv("VLM_PROFILE", "huge")
    with pytest.raises(ValueError, match=r"unknown profile 'huge': .*\['tiny', 'full'\]"):
        profiles.get_profile()


def test_images_from_no_folder_are_refused(monkeypatch, tmp_path):
    assert profiles.image_folder() is None
    monkeypatch.setenv("VLM_IMAGES", str(tmp_path / "gone"))
    with pytest.raises(FileNotFoundError, match="VLM_IMAGES names .*gone, which is not a folder"):
        profiles.image_folder()
    monkeypatch.setenv("VLM_IMAGES", str(tmp_path))
    assert profiles.image_folder() == tmp_path.resolve()


def test_profiles_write_into_folders_of_their_own(monkeypatch, tmp_path):
    monkeypatch.setenv("VLM_OUTPUT", str(tmp_path / "out"))
    folders = {lesson_checkpoint(profiles.get_profile(name)).parent for name in ("tiny", "full")}
    assert folders == {tmp_path / "out" / "tiny", tmp_path / "out" / "full"}
    assert not (tmp_path / "out").exists(), "only what is written makes a folder"


def test_a_lesson_says_what_runs(capsys, monkeypatch, tmp_path):
    profiles.announce(profiles.get_profile())
    said = capsys.readouterr().out
    assert "profile: tiny" in said and re.search(r"device:  (cpu|cuda|mps)", said)
    monkeypatch.setenv("VLM_IMAGES", str(tmp_path))
    profiles.announce(profiles.get_profile())
    assert f"images:  {tmp_path.name}" in capsys.readouterr().out
