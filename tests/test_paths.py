"""Paths that a user types count from where they typed them, also in a notebook's kernel."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from jupyter_client.manager import start_new_kernel

from vlm_utils import __main__ as command
from vlm_utils import profiles
from vlm_utils.profiles import REPOSITORY, TrainingSettings

NAMES = ("VLM_IMAGES", "VLM_OUTPUT", "VLM_DATA")


@pytest.fixture
def typed(tmp_path, monkeypatch):
    """A folder in which somebody types commands, with a folder of pictures in it."""
    folder = tmp_path / "home"
    (folder / "photos").mkdir(parents=True)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("PWD", str(folder))
    monkeypatch.delenv("JPY_PARENT_PID", raising=False)
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    return folder


def in_kernel(monkeypatch, cwd):
    """As a kernel sees it: started by Jupyter, in the folder of the notebook."""
    monkeypatch.setenv("JPY_PARENT_PID", "1")
    monkeypatch.chdir(cwd)


def test_a_relative_path_counts_from_the_current_folder(typed, monkeypatch):
    monkeypatch.setenv("VLM_IMAGES", "photos")
    monkeypatch.setenv("VLM_OUTPUT", "out/of here")
    assert profiles.image_folder() == (typed / "photos").resolve()
    assert profiles.output_folder() == typed / "out" / "of here"


def test_in_a_kernel_it_counts_from_the_shell_that_started_jupyter(typed, tmp_path, monkeypatch):
    """A trap: kernels start in notebooks/, where nobody typed anything."""
    notebooks = tmp_path / "notebooks"
    (notebooks / "photos").mkdir(parents=True)          # the same name there must not win
    monkeypatch.setenv("VLM_IMAGES", "photos")
    monkeypatch.setenv("VLM_OUTPUT", "out")
    in_kernel(monkeypatch, notebooks)
    assert profiles.image_folder() == (typed / "photos").resolve()
    assert profiles.output_folder() == typed / "out"


def test_typed_in_a_notebook_it_is_found_beside_the_notebook(typed, tmp_path, monkeypatch):
    notebooks = tmp_path / "notebooks"
    (notebooks / "mine").mkdir(parents=True)
    in_kernel(monkeypatch, notebooks)
    monkeypatch.setenv("VLM_IMAGES", "mine")
    assert profiles.image_folder() == (notebooks / "mine").resolve()


def test_without_a_shell_a_kernel_of_the_clone_counts_from_the_clone(typed, monkeypatch):
    """On Windows no shell leaves its folder behind."""
    monkeypatch.delenv("PWD")
    in_kernel(monkeypatch, REPOSITORY / "notebooks")
    monkeypatch.setenv("VLM_IMAGES", "notebooks/pictures")
    monkeypatch.setenv("VLM_OUTPUT", "out")
    assert profiles.image_folder() == REPOSITORY / "notebooks" / "pictures"
    assert profiles.output_folder() == REPOSITORY / "out"


def test_a_folder_that_is_nowhere_is_refused_with_all_places(typed, tmp_path, monkeypatch):
    in_kernel(monkeypatch, tmp_path)
    monkeypatch.setenv("VLM_IMAGES", "gone")
    with pytest.raises(FileNotFoundError) as error:
        profiles.image_folder()
    assert str(error.value).startswith("VLM_IMAGES names gone, which is not a folder (looked for "
                                       f"{typed / 'gone'} and {tmp_path / 'gone'})")


@pytest.mark.parametrize("name", ["~/photos", "~"])
def test_the_home_folder_is_meant(typed, monkeypatch, name):
    monkeypatch.setenv("HOME", str(typed))
    monkeypatch.setenv("USERPROFILE", str(typed))
    monkeypatch.setenv("VLM_IMAGES", name)
    monkeypatch.setenv("VLM_OUTPUT", f"{name}/x")
    expected = typed / name[2:]
    assert profiles.image_folder() == expected.resolve()
    assert profiles.output_folder() == expected / "x"


@pytest.mark.skipif(os.name != "posix", reason="homes of other users are looked up on POSIX")
def test_the_home_of_nobody_is_refused_in_words(typed, monkeypatch):
    monkeypatch.setenv("VLM_OUTPUT", "~no_such_user_here/x")
    with pytest.raises(FileNotFoundError, match="~no_such_user_here/x: Could not determine home"):
        profiles.output_folder()
    profiles.settle_paths()                     # leaves it for the one who reads it
    assert os.environ["VLM_OUTPUT"] == "~no_such_user_here/x"


def test_the_data_of_the_course_is_found_the_same_way(typed, monkeypatch):
    (typed / "other" / "tiny_earth").mkdir(parents=True)
    monkeypatch.setenv("VLM_DATA", "other")
    assert profiles.data_folder() == typed / "other"
    monkeypatch.setenv("VLM_DATA", "gone")
    with pytest.raises(FileNotFoundError, match="no tiny_earth folder in .*home/gone and .*gone"):
        profiles.data_folder()


def test_commands_hand_absolute_paths_to_the_kernels(typed, monkeypatch):
    for name, value in (("VLM_IMAGES", "photos"), ("VLM_OUTPUT", "out"), ("VLM_DATA", "gone")):
        monkeypatch.setenv(name, value)
    profiles.settle_paths()
    assert [os.environ[name] for name in NAMES] == [
        str(typed / "photos"), str(typed / "out"), "gone"]


@pytest.mark.parametrize("arguments", [["course", "01"], ["check", "01"], ["doctor"]])
def test_every_command_settles_the_paths_before_it_runs(typed, monkeypatch, arguments):
    seen = []
    monkeypatch.setattr("vlm_utils.course.runner.run_course",
                        lambda *given: seen.append((os.environ["VLM_IMAGES"], given[1])) or 0)
    monkeypatch.setattr("vlm_utils.course.runner.check_course",
                        lambda *given: seen.append((os.environ["VLM_IMAGES"], given[1])) or 0)
    monkeypatch.setattr("vlm_utils.course.doctor.examine",
                        lambda *given: seen.append((os.environ["VLM_IMAGES"], None)) or 0)
    monkeypatch.setenv("VLM_IMAGES", "photos")
    monkeypatch.setenv("VLM_OUTPUT", "out")
    monkeypatch.setattr("sys.argv", ["vlm_utils", *arguments])
    assert command.main() == 0
    pages = None if arguments == ["doctor"] else typed / "out"
    assert seen == [(str(typed / "photos"), pages)]     # nothing goes to a read-only repository


def test_a_real_kernel_finds_what_was_typed(typed, tmp_path, monkeypatch):
    """As `VLM_IMAGES=photos make lab`: the kernel runs in notebooks/."""
    notebooks = tmp_path / "notebooks"
    notebooks.mkdir()
    environment = os.environ | {"VLM_IMAGES": "photos", "VLM_OUTPUT": "out",
                                "PYTHONPATH": str(REPOSITORY)}
    manager, client = start_new_kernel(cwd=str(notebooks), env=environment)
    try:
        said = []
        client.execute_interactive(
            "from vlm_utils.profiles import image_folder, output_folder\n"
            "print(image_folder(), output_folder(), sep='|')", timeout=60,
            output_hook=lambda message: said.append(message["content"].get("text", "")))
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
    assert "".join(said).strip() == f"{(typed / 'photos').resolve()}|{typed / 'out'}"


# --- lessons and profiles that are not there -----------------------------------------------------

@pytest.mark.parametrize(("arguments", "says"), [
    (["course", ""], "no lesson ''"), (["course", "99"], "no lesson '99': there are ['01_a"),
    (["check", "1x"], "no lesson '1x'"), (["course", "01", ""], "no lesson ''"),
    (["doctor", "--profile", "huge"], "unknown profile 'huge'")])
def test_what_is_not_there_is_refused_in_one_line(monkeypatch, capsys, arguments, says):
    """Once a traceback; and an empty number ran everything."""
    monkeypatch.setattr("sys.argv", ["vlm_utils", *arguments])
    with pytest.raises(SystemExit) as ended:
        command.main()
    said = capsys.readouterr().err.strip()
    assert ended.value.code == 2 and says in said.split("\n")[-1] and said.startswith("usage:")


# --- what reading leaves behind ------------------------------------------------------------------

def test_reading_a_model_makes_no_folder_anywhere(tmp_path):
    """Neither where it is called nor, with VLM_OUTPUT set, in the repository."""
    code = ("from vlm_utils.loading import find_trained_model, load_base_model, load_checkpoint\n"
            "from vlm_utils.profiles import get_profile, output_folder\n"
            "from vlm_utils.datasets import load_image_table\n"
            "load_checkpoint(find_trained_model(get_profile())[0]); output_folder()\n"
            "load_base_model(get_profile()); load_image_table(get_profile(), 'test').image(0)")
    before = {path for path in REPOSITORY.iterdir()}
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "VLM_OUTPUT": "out",
                                "PYTHONDONTWRITEBYTECODE": "1", "PWD": str(tmp_path)}
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, check=True,
                   capture_output=True)
    assert list(tmp_path.iterdir()) == []
    assert {path for path in REPOSITORY.iterdir()} <= before | {REPOSITORY / ".pytest_cache"}


def test_installed_without_the_repository_the_default_is_the_current_folder(typed, monkeypatch):
    monkeypatch.setattr(profiles, "REPOSITORY", typed / "site-packages")
    assert profiles.output_folder() == Path.cwd() / "build"
    assert not (typed / "build").exists()


# --- settings of a training ----------------------------------------------------------------------

@pytest.mark.parametrize(("change", "says"), [
    ({"steps": -1}, "steps is a whole number of at least 0, not -1"),
    ({"steps": 2.5}, "steps is a whole"), ({"steps": True}, "steps is a whole"),
    ({"batch_size": 0}, "batch_size is a whole number of at least 1, not 0"),
    ({"accumulation": 0}, "accumulation is a whole"), ({"window": -1}, "window is a whole"),
    ({"warmup_steps": -5}, "warmup_steps is a whole"), ({"checkpoint_every": -1}, "checkpoint_eve"),
    ({"learning_rate": 0}, "learning_rate is a number above 0, not 0"),
    ({"learning_rate": float("nan")}, "learning_rate is a number above 0, not nan"),
    ({"learning_rate": "1e-3"}, "learning_rate is a number above 0, not '1e-3'"),
    ({"learning_rate": float("inf")}, "learning_rate is a"),
    ({"max_grad_norm": 0}, "max_grad_norm is a number above 0"),
    ({"weight_decay": -0.1}, "weight_decay is a number of at least 0, not -0.1"),
    ({"precision": "half"}, "precision is one of no, bf16, fp16, not 'half'"),
    ({"optimizer": "sgd"}, "optimizer is one of adamw, muon, adafactor, not 'sgd'"),
    ({"average": "words"}, "average is one of samples, tokens, not 'words'")])
def test_a_setting_that_no_training_can_have_is_refused_with_its_name(change, says):
    """window=-1 hung, batch_size=0 divided by zero, and steps=0 is a training of no steps."""
    with pytest.raises(ValueError, match=says):
        TrainingSettings(**({"steps": 3} | change))


def test_settings_at_their_bounds_are_taken():
    settings = TrainingSettings(steps=0, batch_size=np.int64(1), accumulation=1, window=1,
                                warmup_steps=0, weight_decay=0, learning_rate=1e-9)
    assert settings.steps == 0
    assert TrainingSettings.of(profiles.get_profile("full"), steps=1).steps == 1
