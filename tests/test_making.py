"""What is made for everybody is not made of a part, nor of one user's pictures."""

import os
import subprocess
import sys
from importlib import import_module

import pytest

from vlm_utils.course.conditions import why_not_store
from vlm_utils.making.conditions import OF_THE_USER, only_embedded
from vlm_utils.profiles import PROFILES, REPOSITORY, get_profile

SET = {"VLM_PROFILE": "full", "VLM_SUBSET": "64", "VLM_IMAGES": "my_pictures"}
# Everything in the folder that writes an embedded model: not a list that somebody must keep.
MAKERS = sorted(path.stem for path in (REPOSITORY / "vlm_utils" / "making").glob("*.py")
                if "\ndef main(" in path.read_text(encoding="utf-8"))


@pytest.fixture
def set_by_the_user(monkeypatch):
    for name, value in SET.items():
        monkeypatch.setenv(name, value)


class TableRead(Exception):
    """The table is asked for: what comes afterwards takes minutes."""


def test_five_models_are_made():
    assert MAKERS == ["base_model", "cross_model", "tasks_model", "time_model", "trained_model"]


@pytest.mark.parametrize("name", MAKERS)
def test_an_embedded_model_is_made_of_all_of_tiny_earth(set_by_the_user, monkeypatch, tmp_path,
                                                        capsys, name):
    """A trap: VLM_SUBSET, left from a trial, would make data/tiny_vlm of 64 images."""
    maker = import_module(f"vlm_utils.making.{name}")

    def load(profile, split):
        raise TableRead(profile, split, [name for name in SET if name in os.environ])

    monkeypatch.setattr(maker, "load_image_table", load)
    monkeypatch.setattr(sys, "argv", [name, "--output", str(tmp_path)])
    with pytest.raises(TableRead) as stopped:
        maker.main()
    assert stopped.value.args == (PROFILES["tiny"], "train", [])
    assert capsys.readouterr().out.startswith(
        "not used here: VLM_PROFILE=full, VLM_SUBSET=64, VLM_IMAGES=my_pictures (this is always ")


def test_benchmarks_take_the_embedded_world_too(set_by_the_user, capsys):
    """Each that others compare theirs with calls `same_for_everyone` before it reads a table."""
    done = subprocess.run(
        [sys.executable, "-c", "import common; common.same_for_everyone();"
         "print(common.get_profile() == common.get_profile('tiny'), common.get_profile().subset)"],
        cwd=REPOSITORY / "benchmarks", capture_output=True, text=True,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)})
    assert done.stdout.splitlines()[-1] == "True None", done.stdout + done.stderr
    for path in sorted((REPOSITORY / "benchmarks").glob("*.py")):
        source = path.read_text(encoding="utf-8")
        if "\ndef main(" in source and ("make_samples(" in source or "get_profile(" in source):
            assert "same_for_everyone()" in source or "arguments_of(" in source, path.name


@pytest.mark.parametrize("value", [None, "", "tiny"])
def test_nothing_is_said_of_settings_that_change_nothing(monkeypatch, capsys, value):
    for name in OF_THE_USER:
        monkeypatch.delenv(name, raising=False)
    if value is not None:
        monkeypatch.setenv("VLM_PROFILE", value)
    monkeypatch.setenv("VLM_SUBSET", " ")
    only_embedded()
    assert capsys.readouterr().out == "" and get_profile() is PROFILES["tiny"]


@pytest.mark.parametrize("name", SET)
def test_outputs_of_a_part_are_not_stored(monkeypatch, tmp_path, name):
    """A trap: `VLM_SUBSET=64 make notebooks` would store a subset's outputs in every lesson."""
    stored = {path: path.read_bytes() for path in (REPOSITORY / "notebooks").glob("*.ipynb")}
    (tmp_path / "my_pictures").mkdir()
    done = subprocess.run(
        [sys.executable, "-m", "vlm_utils", "course", "01", "--write", "--output",
         str(tmp_path / "build")], capture_output=True, text=True, cwd=tmp_path,
        env=os.environ | {name: SET[name], "PYTHONPATH": str(REPOSITORY)})
    assert done.returncode == 1 and len(done.stdout.splitlines()) == 1, done.stdout + done.stderr
    assert done.stdout.startswith("--write stores what everybody will see: the tiny profile with")
    assert f"Unset {name}=" in done.stdout and SET[name] in done.stdout
    assert not (tmp_path / "build").exists() and "Traceback" not in done.stderr
    assert stored == {path: path.read_bytes() for path in stored}


def test_outputs_of_the_whole_may_be_stored(monkeypatch):
    for name in SET:
        monkeypatch.delenv(name, raising=False)
    assert why_not_store() == ""
    monkeypatch.setenv("VLM_PROFILE", "tiny")
    assert why_not_store() == ""
