"""Checkpoints of trainings: nothing of the user's is lost, damage is named, and a resumed run is
the run that was interrupted."""

import ast
import errno
import json
import os
import random
import re
import shutil
import subprocess
import sys
import threading
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import concatenate_datasets
from safetensors.torch import load_file, save_file
from small_runs import (
    SETTINGS,
    interrupt_after,
    losses_of,
    resumed_losses,
    small_dataset,
    small_model,
    small_processor,
    small_run,
)
from test_folders import damage, names

from vlm_utils import loading
from vlm_utils.loading import find_trained_model, lesson_checkpoint, load_checkpoint
from vlm_utils.profiles import PROFILES, REPOSITORY, get_profile
from vlm_utils.sources import checkpoints, folders
from vlm_utils.sources.checkpoints import MARKER, find_checkpoints, find_finished
from vlm_utils.sources.folders import DamagedFiles, FolderInUse, hold
from vlm_utils.training import resume_run, start_run, train
from vlm_utils.training.checkpoints import STATE
from vlm_utils.training.fingerprints import images_fingerprint

on_linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc as on Linux")
with_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="forks processes")


@pytest.fixture(scope="module")
def dataset():
    return small_dataset()


@pytest.fixture(scope="module")
def whole(dataset):
    """The losses of a training that nothing disturbs."""
    return losses_of(small_run(dataset=dataset))


@pytest.fixture(scope="module")
def finished_once(dataset, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("finished") / "run"
    losses_of(small_run(dataset=dataset), folder)
    return folder


@pytest.fixture
def finished(finished_once, tmp_path) -> Path:
    """A folder that holds a training of 12 steps."""
    shutil.copytree(finished_once, tmp_path / "run")
    return tmp_path / "run"


def reseal(folder: Path, **facts) -> None:
    """Give a checkpoint that was changed on purpose a marker that fits."""
    facts = folders.read_marker(folder, MARKER) | facts
    (folder / MARKER).unlink()
    folders.seal(folder, MARKER, facts)


def contents(folder: Path) -> dict:
    return {path.relative_to(folder): path.read_bytes()
            for path in folder.rglob("*") if path.is_file()}


# --- interrupted, resumed, extended ------------------------------------------------------------

def test_an_interrupted_training_says_where_its_checkpoint_is_and_how_to_go_on(
        dataset, tmp_path, monkeypatch, capsys, whole):
    monkeypatch.chdir(tmp_path)
    assert losses_of(small_run(dataset=dataset), "run", interrupt_after(5)) == whole[:5]
    assert capsys.readouterr().out.splitlines() == [
        "interrupted after step 5 of 12",
        f"Its checkpoint is {Path('run.unfinished/5-steps-2')}. To go on: "
        "train(resume_run(folder, dataset), folder)"]
    assert names(tmp_path) == {"run.unfinished"}
    assert resumed_losses("run", dataset) == whole
    assert names(tmp_path) == {"run"}


def test_random_numbers_go_on_where_they_stopped(dataset, tmp_path, whole):
    """Of torch, numpy and Python; drawn while training, and by dropout in the model."""
    drawn = {"straight": [], "resumed": []}

    def draw(into, stop=None):
        def on_step(row):
            into.append((random.random(), np.random.rand(), torch.rand(()).item()))
            if row["step"] == stop:
                raise KeyboardInterrupt
        return on_step

    straight = losses_of(small_run(dataset=dataset), on_step=draw(drawn["straight"]))
    losses_of(small_run(dataset=dataset), tmp_path / "run", draw(drawn["resumed"], stop=5))
    run = resume_run(tmp_path / "run", dataset)
    assert losses_of(run, tmp_path / "run", draw(drawn["resumed"])) == straight
    assert drawn["resumed"] == drawn["straight"]
    assert straight != whole            # dropout did draw from the same numbers


def test_a_checkpoint_on_the_way_is_resumed_in_the_middle_of_an_epoch(dataset, tmp_path, whole):
    """28 samples are 3 batches of 8: step 4 begins the second epoch."""
    with pytest.raises(ZeroDivisionError):
        losses_of(small_run(dataset=dataset), tmp_path / "run", lambda row: 1 / (7 - row["step"]))
    assert [c.steps for c in find_checkpoints(tmp_path / "run")] == [4]
    assert resumed_losses(tmp_path / "run", dataset) == whole


def test_the_run_that_was_interrupted_can_go_on_in_the_same_program(dataset, tmp_path, whole):
    run = small_run(dataset=dataset)
    losses_of(run, tmp_path / "run", interrupt_after(5))
    assert losses_of(run, tmp_path / "run") == whole


def test_a_run_that_was_cut_off_in_mid_step_does_not_go_on(dataset, whole):
    """Its weights have moved, and its history does not know it."""
    run = small_run(dataset=dataset)
    handle = run.optimizer.optimizer.register_step_post_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        losses_of(run)
    handle.remove()
    with pytest.raises(RuntimeError, match=r"step 1 of this run was cut off .*\(resume_run\)"):
        losses_of(run)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_finished_training_is_extended(dataset, tmp_path, optimizer):
    """The learning rate was 0 at its end; step 13 takes that of a training of 20 steps."""
    settings = replace(SETTINGS, optimizer=optimizer)
    first = train(small_run(settings, dataset), tmp_path / "run")
    longer = train(small_run(replace(settings, steps=20), dataset))
    run = resume_run(tmp_path / "run", dataset, steps=20)
    rates = [group["lr"] for group in run.optimizer.param_groups]
    expected = longer["learning_rate"].tolist()
    assert rates == pytest.approx([expected[11]] * len(rates))      # what the thirteenth step uses
    history = train(run, tmp_path / "run")
    assert history["loss"].tolist()[:12] == first["loss"].tolist()
    assert history["learning_rate"].tolist()[12:] == pytest.approx(expected[12:])
    assert find_finished(tmp_path / "run").steps == 20
    assert names(tmp_path) == {"run"}


def test_going_back_is_refused_and_the_way_to_more_steps_is_named(finished, dataset):
    with pytest.raises(ValueError, match="has come to step 12: steps=8 would go back"):
        resume_run(finished, dataset, steps=8)
    with pytest.raises(ValueError, match=r"'steps': \(12, 20\).* resume_run\(..., steps=...\)"):
        resume_run(finished, dataset, replace(SETTINGS, steps=20))


def test_settings_of_another_version_are_refused_with_its_number(finished, dataset):
    settings = find_finished(finished).facts["settings"] | {"momentum": 0.9}
    reseal(finished, settings=settings)
    with pytest.raises(ValueError, match="written by vlm_utils 0.1.0, whose settings .*momentum"):
        resume_run(finished, dataset)


def test_images_are_known_by_their_content_alone(dataset):
    """Not by the order of columns, by what has been selected, or by the name of a file."""
    images = dataset.table.dataset

    def fingerprint(selected):
        return images_fingerprint(replace(dataset.table, dataset=selected))

    assert fingerprint(images) == fingerprint(images.add_column("more", list(range(len(images)))))
    backwards = images.select(range(len(images) - 1, -1, -1))
    assert fingerprint(backwards) != fingerprint(images)
    assert fingerprint(backwards.select(range(len(images) - 1, -1, -1))) == fingerprint(images)
    many, again = concatenate_datasets([images] * 40), concatenate_datasets([images] * 40)
    assert fingerprint(many) == fingerprint(again.flatten_indices())
    assert fingerprint(many) != fingerprint(concatenate_datasets([images] * 39 + [backwards]))
    assert images_fingerprint(replace(dataset.table, orientations=2)) != fingerprint(images)


@pytest.mark.parametrize("change, words", [
    (lambda d: small_dataset(seed=1), "16 images.* fingerprint"),
    (lambda d: small_dataset(mixture={"select 2": 12, "refer 1-3": 12}),
     r"28 samples: .*select 2: 12.*now it is given .*24 samples: .*select 2: 12"),
    (lambda d: replace(d, recipes=d.recipes[::-1]), "28 samples.*28 samples"),
    (lambda d: replace(d, table=replace(d.table, image_features=None)),
     r"16 images, encoded before; .*16 images; 28"),
], ids=["other images", "another mixture", "another order", "pictures for features"])
def test_other_data_are_refused_and_both_are_named(finished, dataset, change, words):
    with pytest.raises(ValueError, match="was trained on 'noise' .*and now it is given 'noise'") \
            as refused:
        resume_run(finished, change(dataset), steps=20)
    assert re.search(words, str(refused.value))


def test_another_number_of_processes_is_refused_and_both_are_named(finished, dataset):
    reseal(finished, processes=2)
    with pytest.raises(ValueError, match="was trained by 2 processes and there are 1 now"):
        resume_run(finished, dataset)


@with_fork
def test_of_two_processes_one_writes_and_both_stop_and_go_on():
    done = run_script("two_processes.py")
    seen = json.loads(done.stdout.splitlines()[-1])
    assert seen["whole"][0] == seen["whole"][1] and len(seen["whole"][0]) == 8
    assert seen["stopped after"] == [5, 5]          # interrupted in the second process alone
    assert seen["written by"] == [2, 0]             # after steps 4 and 5, by the first one alone
    assert seen["resumed"] == seen["whole"]
    assert "was trained by 2 processes and there are 1 now" in seen["alone"]
    assert seen["left"] == ["run"]


@with_fork
def test_killed_or_interrupted_at_random_moments_a_training_goes_on_to_the_same_losses():
    done = run_script("stop_training.py", "--kills", "5", "--interrupts", "8", "--seed", "1")
    assert "5 of 5 kills left a whole checkpoint and equal losses" in done.stdout
    assert "8 of 8 interrupts went on to equal losses" in done.stdout


def run_script(name: str, *arguments: str) -> subprocess.CompletedProcess:
    done = subprocess.run([sys.executable, str(REPOSITORY / "tests" / name), *arguments],
                          env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done


# --- training again ----------------------------------------------------------------------------

def test_training_again_and_stopping_at_once_keeps_the_finished_model(finished, dataset, capsys):
    before = contents(finished)
    losses_of(small_run(dataset=dataset), finished, interrupt_after(1))
    assert contents(finished) == before
    assert "run is what it was before: a training of 12 steps" in capsys.readouterr().out
    assert names(finished.parent) == {"run", "run.unfinished"}


def test_training_for_no_steps_keeps_the_finished_model(finished, dataset, capsys):
    before = contents(finished)
    losses_of(small_run(replace(SETTINGS, steps=0), dataset), finished)
    assert contents(finished) == before and names(finished.parent) == {"run"}
    assert "no step to train, so nothing was saved: run is what it was" in capsys.readouterr().out


def test_a_shorter_training_keeps_the_longer_one_aside(finished, dataset, capsys):
    losses_of(small_run(replace(SETTINGS, steps=3), dataset), finished)
    assert find_finished(finished).steps == 3
    assert find_finished(finished.with_name("run.12-steps")).steps == 12
    assert "held a training of 12 steps, more than these 3: it is kept as run.12-steps" in \
        capsys.readouterr().out


def test_a_training_of_the_same_length_takes_the_place(finished, dataset):
    old = find_finished(finished).facts["run"]
    losses_of(small_run(dataset=dataset), finished)
    assert find_finished(finished).facts["run"] != old and names(finished.parent) == {"run"}


# --- before the first step ---------------------------------------------------------------------

def refused(folder, dataset, error=ValueError, match=None) -> None:
    """Training into this folder is refused before the first step."""
    run = small_run(dataset=dataset)
    with pytest.raises(error, match=match):
        train(run, folder)
    assert run.history == [] and not run.model.training


def test_a_folder_with_something_of_the_users_is_refused(tmp_path, dataset):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.tex").write_text("four years")
    refused(tmp_path / "run", dataset, match="run holds thesis.tex, which no training wrote there")
    assert names(tmp_path) == {"run"} and names(tmp_path / "run") == {"thesis.tex"}


def test_something_of_the_users_in_a_checkpoint_is_refused(finished, dataset):
    (finished / "figures").mkdir()
    (finished / "figures" / "thesis.tex").write_text("four years")
    refused(finished, dataset, match="run holds figures, figures/thesis.tex, which no training")
    assert (finished / "figures" / "thesis.tex").read_text() == "four years"


@pytest.mark.parametrize("folder", [".", "", "..", "../here"])
def test_the_folder_that_one_works_in_is_refused(tmp_path, monkeypatch, dataset, folder):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    if folder == "":
        folder = Path()
    refused(folder, dataset, match="is the folder that you work in, or above it")
    assert names(tmp_path) == {"here"} and names(tmp_path / "here") == set()


def test_a_link_is_refused(finished, dataset):
    link = finished.with_name("link")
    link.symlink_to(finished, target_is_directory=True)
    refused(link, dataset, match="link is a link to .*run: .* give that folder itself")
    link.unlink()
    link.symlink_to(finished.with_name("nowhere"), target_is_directory=True)
    refused(link, dataset, match="link is a link to .*nowhere")


def test_a_file_in_its_place_or_above_it_is_refused(tmp_path, dataset):
    (tmp_path / "run").write_text("four years")
    refused(tmp_path / "run", dataset, match="run is a file: give a folder")
    refused(tmp_path / "run" / "deeper", dataset, match="run is a file: .*deeper cannot be made")
    assert (tmp_path / "run").read_text() == "four years"


def test_a_checkpoint_on_its_way_is_no_place_to_train_into(tmp_path, dataset):
    losses_of(small_run(dataset=dataset), tmp_path / "run", interrupt_after(3))
    refused(tmp_path / "run.unfinished" / "3-steps-1", dataset, match="on the way: train into .*ru")
    refused(tmp_path / "run.unfinished", dataset, match="run.unfinished holds")


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES, errno.ENOSPC])
def test_a_place_where_nothing_can_be_written_is_refused(tmp_path, dataset, monkeypatch, number):
    def mkdir(path, *_, **__):
        raise OSError(number, os.strerror(number), str(path))

    run = small_run(dataset=dataset)
    with monkeypatch.context() as patch:
        patch.setattr(os, "mkdir", mkdir)
        with pytest.raises(OSError, match=rf"nothing can be written beside .*run "
                                          rf"\({os.strerror(number)}\): choose another folder"):
            train(run, tmp_path / "run")
    assert run.history == [] and names(tmp_path) == set()


@on_linux
def test_a_drive_of_its_own_is_refused(dataset):
    """What is mounted in a container: renaming it would fail after the last step."""
    refused("/proc", dataset, match="/proc is a drive of its own")


@on_linux
def test_a_place_that_the_system_keeps_for_itself_is_refused(dataset):
    refused("/proc/run", dataset, OSError, "/proc/run .*choose another folder")


def test_a_full_disk_is_noticed(tmp_path, dataset, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=30_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    refused(tmp_path / "run", dataset, OSError, r"needs 4\d MB for its checkpoints and the disk "
                                                "has 30 MB left: make room")
    assert names(tmp_path) == set()


def test_what_a_checkpoint_takes_is_not_more_than_was_asked_for(finished, dataset):
    from vlm_utils.training.checkpoints import bytes_needed
    taken = sum(path.stat().st_size for path in finished.iterdir())
    assert taken < bytes_needed(small_run(replace(SETTINGS, checkpoint_every=0), dataset))


def test_a_second_training_into_the_folder_is_refused(tmp_path, dataset):
    seen = []

    def second():
        try:
            train(small_run(dataset=dataset), tmp_path / "run")
        except FolderInUse as error:
            seen.append(str(error))

    with hold(tmp_path / "run"):
        thread = threading.Thread(target=second)
        thread.start()
        thread.join()
    assert len(seen) == 1 and f"is being written by process {os.getpid()}" in seen[0]


def test_a_folder_is_where_it_was_typed_wherever_the_program_goes(tmp_path, monkeypatch, dataset):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    losses_of(small_run(dataset=dataset), "run",
              lambda row: os.chdir(tmp_path / "elsewhere"))
    assert names(tmp_path) == {"run", "elsewhere"} and names(tmp_path / "elsewhere") == set()


# --- what was trained --------------------------------------------------------------------------

def test_an_interrupted_training_is_not_taken_for_a_trained_model(dataset, capsys):
    tiny = lesson_checkpoint(get_profile("tiny"))
    for profile in ("tiny", "full"):
        losses_of(small_run(dataset=dataset), lesson_checkpoint(get_profile(profile)),
                  interrupt_after(5))
    folder, which = find_trained_model(get_profile("tiny"))
    assert folder.name == "tiny_vlm"
    assert "trained model in data/; a later training was interrupted after step 5 of 12" in which
    with pytest.raises(FileNotFoundError, match="no trained model for profile 'full'; .*after step "
                                                "5 of 12: .*lesson_04.unfinished.*5-steps"):
        find_trained_model(get_profile("full"))
    with pytest.raises(FileNotFoundError, match=r"after step 5 of 12. Go on with train\(.*"
                                                r"or take it as it is: load_checkpoint\("):
        load_checkpoint(tiny)
    load_checkpoint(find_checkpoints(tiny)[0].path)             # asked for by its own name
    resumed_losses(tiny, dataset)
    folder, which = find_trained_model(get_profile("tiny"))
    assert folder == tiny and which == "the checkpoint that lesson 04 wrote after 12 steps"
    losses_of(small_run(dataset=dataset), tiny, interrupt_after(2))
    folder, which = find_trained_model(get_profile("tiny"))
    assert folder == tiny and which.endswith("interrupted after step 2 of 12: "
                                             f"{checkpoints.brief(find_checkpoints(tiny)[0].path)}")


def test_a_model_without_a_record_of_its_training_is_said_to_be_one():
    folder = lesson_checkpoint(get_profile("tiny"))
    small_model().save_pretrained(folder)
    small_processor().save_pretrained(folder)
    found, which = find_trained_model(get_profile("tiny"))
    assert found == folder and which == "the model in lesson_04, which says of no training"


def test_the_lessons_save_on_the_way():
    """A training of minutes or hours, and a power cut before its last step."""
    for profile in PROFILES.values():
        assert 0 < profile.training.checkpoint_every <= profile.training.steps / 5


def test_reading_makes_and_changes_nothing(finished, dataset, monkeypatch, tmp_path):
    monkeypatch.setenv("VLM_OUTPUT", str(tmp_path / "out"))
    before = contents(tmp_path)
    load_checkpoint(finished)
    resume_run(finished, dataset)
    find_trained_model(get_profile("tiny"))
    assert contents(tmp_path) == before and names(tmp_path) == {"run"}


# --- damage ------------------------------------------------------------------------------------

@pytest.mark.parametrize("how", ["missing", "shorter", "flipped"])
def test_a_damaged_checkpoint_says_which_file_and_what_to_do(finished, dataset, how):
    for path in sorted(finished.iterdir()):
        if path.name == MARKER and how != "flipped":
            continue
        content = path.read_bytes()
        damage(path, how)
        for read in (load_checkpoint, lambda folder: resume_run(folder, dataset)):
            with pytest.raises(DamagedFiles, match=f"{path.name} .*damaged: take another one, or "
                                                   "move it away and train again"):
                read(finished)
        path.write_bytes(content)
    load_checkpoint(finished)


def change_json(path: Path, **changes) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def change_part(path: Path, part: str, **changes) -> None:
    content = json.loads(path.read_text())
    content[part] |= changes
    path.write_text(json.dumps(content))


def lose_a_tensor(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    del weights["projector.layers.0.weight"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def reshape_a_tensor(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights["projector.layers.0.weight"] = weights["projector.layers.0.weight"].T.contiguous()
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


WRONG = {
    "a tensor is missing": (lose_a_tensor, "config.json .* model of [0-9,]+ weights, .* holds"),
    "a tensor has another shape": (reshape_a_tensor, "weights"),
    "an empty config": (lambda f: (f / "config.json").write_text("{}"), "config.json .*model_type"),
    "a config that is a list": (lambda f: (f / "config.json").write_text("[]"), "config.json"),
    "a config cut short": (lambda f: damage(f / "config.json", "shorter"), None),
    "a far larger model": (lambda f: change_part(f / "config.json", "text_config",
                                                 vocab_size=10**9), "config.json .* holds"),
    "no end of layers": (lambda f: change_part(f / "config.json", "text_config",
                                               num_hidden_layers=10**9), "10+ layers"),
    "no patches": (lambda f: change_part(f / "config.json", "vision_config", patch_size=0),
                   "config.json"),
    "words for numbers": (lambda f: change_part(f / "config.json", "text_config",
                                                hidden_size="many"), "config.json"),
    "another merge factor": (lambda f: change_json(f / "config.json", merge_factor=1),
                             "weights|model"),
    "other heads": (lambda f: change_part(f / "config.json", "text_config",
                                          num_key_value_heads=2), "config.json"),
    "weights cut short": (lambda f: damage(f / "model.safetensors", "shorter"),
                          "model.safetensors is damaged or cut short"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "model.safetensors is missing"),
    "no tokenizer": (lambda f: (f / "tokenizer.json").unlink(), "tokenizer.json"),
    "a tokenizer cut short": (lambda f: (f / "tokenizer.json").write_text("{"), "tokenizer.json"),
    "another tokenizer's model": (lambda f: change_json(f / "config.json", image_token_id=1),
                                  "tokenizer is another"),
    "tokens of another model": (lambda f: change_json(f / "multi_image_processor.json",
                                                      tokens_per_image=9), "9 tokens an image"),
    "more names than anyone has": (lambda f: change_json(f / "multi_image_processor.json",
                                                         max_images=10**10), "names for 10+ image"),
    "images of another size": (lambda f: change_json(f / "preprocessor_config.json",
                                                     size={"height": 10**6, "width": 10**6}),
                               "images of"),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_model_whose_files_do_not_fit_each_other_is_refused(finished, what):
    """Without a marker, as data/ holds it: what was written is not known, only what fits."""
    change, words = WRONG[what]
    (finished / MARKER).unlink()
    change(finished)
    if words is None:                       # what was cut off was a line break
        words = "config.json"
        (finished / "config.json").write_text((finished / "config.json").read_text()[:-2])
    with pytest.raises(DamagedFiles, match=words):
        load_checkpoint(finished)


@with_fork
def test_whatever_is_damaged_the_error_is_ours_and_names_the_folder():
    done = run_script("fuzz_checkpoints.py", "--count", "50", "--seed", "3")
    assert "50 damaged checkpoints" in done.stdout and "0 problems" in done.stdout


def test_a_wrong_setting_is_not_called_damage(finished):
    with pytest.raises(ValueError, match="layout is one of") as raised:
        load_checkpoint(finished, layout="sideways")
    assert not isinstance(raised.value, DamagedFiles)


class _Trap:
    def __reduce__(self):
        return os.mkdir, (os.environ["TRAP"],)


def test_a_state_that_would_run_code_is_refused_and_nobody_is_told_to_allow_it(
        finished, dataset, tmp_path, monkeypatch):
    monkeypatch.setenv("TRAP", str(tmp_path / "trapped"))
    torch.save({"optimizer": _Trap()}, finished / STATE)
    reseal(finished)
    with pytest.raises(DamagedFiles, match=f"{STATE} cannot be read") as raised:
        resume_run(finished, dataset)
    assert "weights_only" not in str(raised.value) and raised.value.__suppress_context__
    assert not (tmp_path / "trapped").exists()


def test_code_that_comes_with_a_checkpoint_is_not_run(finished, tmp_path, monkeypatch):
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asks whether to run it"))
    (finished / MARKER).unlink()
    (finished / "evil.py").write_text(f"import os; os.mkdir({str(tmp_path / 'trapped')!r})\n")
    for name, key, owner in (("config.json", "AutoModel", None),
                             ("tokenizer_config.json", "AutoTokenizer", None),
                             ("preprocessor_config.json", "AutoImageProcessor", None),
                             ("config.json", "AutoModelForCausalLM", "text_config"),
                             ("config.json", "AutoModel", "vision_config")):
        changes = {"auto_map": {key: "evil.Evil", "AutoConfig": "evil.Evil"}}
        if owner:
            change_part(finished / name, owner, **changes)
        else:
            change_json(finished / name, **changes)
    try:
        load_checkpoint(finished)
    except DamagedFiles:
        pass                                # refused is as good
    assert not (tmp_path / "trapped").exists()


@cache
def all_calls() -> list[tuple[str, str, ast.Call]]:
    """Every call in the package: where it is, what is called, and the call itself."""
    return [(f"{path.name}:{node.lineno}", ast.unparse(node.func), node)
            for path in sorted((REPOSITORY / "vlm_utils").rglob("*.py"))
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            if isinstance(node, ast.Call)]


def calls(name: str) -> list[tuple[str, ast.Call]]:
    """Every call of a function or method of that name in the package."""
    return [(where, node) for where, called, node in all_calls() if called.endswith(name)]


def test_nothing_is_unpickled_without_safeguards():
    loads = calls("torch.load")
    assert loads
    for where, call in loads:
        assert any(k.arg == "weights_only" and k.value.value is True for k in call.keywords), where
    assert calls("pickle.load") == calls("pickle.loads") == []


def test_no_code_of_others_is_trusted():
    """Every class of transformers that could import code with a model is told not to."""
    loads = [(where, call) for name in (".from_pretrained", ".from_config")
             for where, call in calls(name) if ast.unparse(call.func).startswith("Auto")]
    assert len(loads) >= 4
    for where, call in loads:
        assert any(k.arg == "trust_remote_code" and k.value.value is False
                   for k in call.keywords), where


# --- Windows -----------------------------------------------------------------------------------

def refuse_what_is_open(monkeypatch) -> None:
    """Windows' rule: what is open, or mapped into memory, is neither renamed nor deleted."""
    def is_open(path: Path) -> bool:
        path = os.path.abspath(path)
        lines = Path("/proc/self/maps").read_text().splitlines()
        mapped = [line.split(maxsplit=5)[-1] for line in lines]
        opened = [os.readlink(f"/proc/self/fd/{number}") for number in os.listdir("/proc/self/fd")
                  if os.path.lexists(f"/proc/self/fd/{number}")]
        return any(name == path or name.startswith(path + os.sep) for name in mapped + opened)

    def guarded(original):
        def guard(path, *arguments, dir_fd=None, **options):
            full = path if dir_fd is None else os.path.join(
                os.readlink(f"/proc/self/fd/{dir_fd}"), path)
            if os.path.lexists(full) and not os.path.isdir(full) and is_open(full):
                raise PermissionError(errno.EACCES, "is in use", str(path))
            if original.__name__ in ("rename", "replace") and is_open(full):
                raise PermissionError(errno.EACCES, "is in use", str(path))
            return original(path, *arguments, **options,
                            **({} if dir_fd is None else {"dir_fd": dir_fd}))
        return guard

    for name in ("rename", "replace", "unlink", "remove"):
        monkeypatch.setattr(os, name, guarded(getattr(os, name)))


@on_linux
def test_a_checkpoint_that_was_resumed_from_can_be_replaced_on_windows(finished, dataset,
                                                                     monkeypatch):
    """A trap: weights that are read from a mapped file keep it open as long as the model lives."""
    refuse_what_is_open(monkeypatch)
    for steps in (16, 20):
        losses_of(resume_run(finished, dataset, steps=steps), finished)
        assert find_finished(finished).path == finished and find_finished(finished).steps == steps
    assert names(finished) == {path.name for path in finished.iterdir()}


@on_linux
def test_a_checkpoint_that_is_being_read_on_windows_is_kept_and_found(finished, dataset,
                                                                    monkeypatch):
    """With the naive way of loading the weights stay mapped. Even then nothing is lost."""
    refuse_what_is_open(monkeypatch)
    monkeypatch.setattr(loading, "_keep_in_memory", lambda model: None)
    run = resume_run(finished, dataset, steps=16)
    with pytest.warns(UserWarning, match="finished checkpoint stays in .*16-steps-.* is in use"):
        losses_of(run, finished)
    assert find_finished(finished).steps == 16 and find_finished(finished).path != finished
    load_checkpoint(finished)
    assert start_run(run.model, run.processor, dataset, SETTINGS) is not None
