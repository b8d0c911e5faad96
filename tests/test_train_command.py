"""`python -m vlm_utils train`: what it refuses, what it writes, and two processes that one launcher
or another has started."""

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch
from hub_cache import write_miniature
from pictures import noise
from small_runs import SETTINGS, interrupt_after, losses_of, small_dataset, small_run

from vlm_utils.__main__ import main
from vlm_utils.profiles import PROFILES, REPOSITORY, SMALLEST_SUBSET, TrainingSettings, get_profile
from vlm_utils.scaling import job, launch
from vlm_utils.scaling import plan as planning
from vlm_utils.scaling.launch import processes_to_start
from vlm_utils.sources.checkpoints import brief, find_checkpoints
from vlm_utils.sources.folders import FolderInUse
from vlm_utils.training import Copies, resume_run

with_gloo = pytest.mark.skipif(
    sys.platform == "win32" or not torch.distributed.is_available(),
    reason="no gloo here, by which processes on a CPU talk")
SMALL = ["--mixture", "select 2: 24", "--batch-size", "4", "--log-every", "2"]


@pytest.fixture(autouse=True)
def _no_bars(monkeypatch):
    """The command sets this itself, for the program that it is."""
    monkeypatch.setenv("TQDM_DISABLE", "1")


def environment(tmp_path: Path, **more: str) -> dict[str, str]:
    """For a command of its own: few images, one thread, and features kept for the next one."""
    found = os.environ | {"VLM_SUBSET": str(SMALLEST_SUBSET), "VLM_OUTPUT": str(tmp_path / "out"),
                          "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)} | more
    if sys.platform == "linux":
        found["GLOO_SOCKET_IFNAME"] = "lo"
    return found


def wrong(monkeypatch, capsys, *options: str) -> str:
    """The last line that the command prints before it ends with status 2."""
    monkeypatch.setattr(sys, "argv", ["vlm_utils", "train", *options])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    return capsys.readouterr().err.splitlines()[-1]


# --- options -----------------------------------------------------------------------------------

@pytest.mark.parametrize(("options", "words"), [
    (["--profile", "huge"], "unknown profile 'huge': set VLM_PROFILE"),
    (["--mixture", "select 2"], "'select 2' is not \"TASK IMAGES: SAMPLES\""),
    (["--mixture", "select2: 10"], "'select2: 10' is not \"TASK IMAGES: SAMPLES\""),
    (["--mixture", "select 2 = 10"], "'select 2 = 10' is not \"TASK IMAGES: SAMPLES\""),
    (["--mixture", "select 2: -5"], "'select 2: -5' is not \"TASK IMAGES: SAMPLES\""),
    (["--mixture", ""], "'' is not \"TASK IMAGES: SAMPLES\""),
    (["--mixture", "choose 2: 10"], "unknown task 'choose': choose from"),
    (["--mixture", "selct 2: 10"], "unknown task 'selct': choose from"),
    (["--mixture", "select 3-2: 10"], "'select 3-2': write the task and its number of images"),
    (["--mixture", "select 2: 10, select 2: 20"], "names 'select 2' twice"),
    (["--mixture", "none.json"], "none.json is not a file"),
    (["--steps", "-1"], "steps is a whole number of at least 0, not -1"),
    (["--steps", "many"], "argument --steps: invalid int value: 'many'"),
    (["--batch-size", "0"], "batch_size is a whole number of at least 1, not 0"),
    (["--precision", "fp8"], "precision is one of no, bf16, fp16, not 'fp8'"),
    (["--optimizer", "sgd"], "optimizer is one of adamw, muon, adafactor, not 'sgd'"),
    (["--start", "nowhere"], "--start nowhere is not a folder"),
    (["--metrics", "steps.txt"], "--metrics steps.txt ends in neither .jsonl nor .csv"),
    (["--metrics", "run/steps.csv"], "is the folder of the checkpoint, or in it"),
    (["--metrics", "run.unfinished/steps.csv"], "is the folder of the checkpoint, or in it"),
    (["--evaluate", "-3"], "--evaluate is at least 0, not -3"),
    (["--log-every", "0"], "--log-every is at least 1, not 0"),
    (["--processes", "0"], "--processes is at least 1, not 0"),
    (["--processes", "2", "--shard", "--optimizer", "adafactor"],
     "--shard: torch's Adafactor does not work on shares of a matrix. Take --optimizer adamw"),
    (["--processes", "4", "--batch-size", "3"],
     "--batch-size 3 is of all processes together, and there are 4: give each of them a sample"),
])
def test_a_wrong_option_gets_one_line(monkeypatch, capsys, tmp_path, options, words):
    monkeypatch.chdir(tmp_path)
    assert words in wrong(monkeypatch, capsys, "--output", "run", *options)
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_hold_a_checkpoint_is_refused_before_anything_is_loaded(
        monkeypatch, capsys, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    assert "holds notes.txt, which no training wrote there" in wrong(
        monkeypatch, capsys, "--output", str(tmp_path))
    assert "the following arguments are required: --output" in wrong(monkeypatch, capsys)


@pytest.mark.parametrize("options", [["--output", "notes.txt"], ["--output", "notes.txt/run"],
                                     ["--output", "notes.txt/deep/run"],
                                     ["--output", "run", "--metrics", "notes.txt/steps.csv"],
                                     ["--output", "run", "--metrics", "notes.txt/a/steps.csv"]])
def test_a_place_inside_a_file_is_refused(monkeypatch, capsys, tmp_path, options):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes.txt").write_text("mine")
    assert "notes.txt is a file" in wrong(monkeypatch, capsys, *options)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
    assert (tmp_path / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("content", ["[1]", "{", '{"select 2": "many"}', '{"select": 3}'])
def test_a_file_that_holds_no_mixture_is_refused(tmp_path, content):
    path = tmp_path / "mixture.json"
    path.write_text(content)
    with pytest.raises(ValueError, match="mixture.json|write the task"):
        planning.read_mixture(str(path))


def test_a_mixture_is_read_from_text_and_from_a_file(tmp_path):
    path = tmp_path / "mixture.json"
    path.write_text('{"select 2": 100, "sequence 2-4": 50}')
    for given in ("select 2: 100,sequence 2-4:50", str(path)):
        assert planning.read_mixture(given) == {"select 2": 100, "sequence 2-4": 50}


def test_every_number_of_a_training_is_an_option_and_the_rest_the_profiles(monkeypatch, tmp_path):
    given = {"steps": "7", "batch_size": "6", "accumulation": "2", "learning_rate": "0.5",
             "warmup_steps": "3", "weight_decay": "0.25", "max_grad_norm": "2.0",
             "precision": "no", "checkpoint_every": "5", "window": "9", "average": "tokens",
             "optimizer": "adafactor", "seed": "4", "encoder_rate": "0.5"}
    assert set(given) == {each.name for each in fields(TrainingSettings)}
    seen = []
    monkeypatch.setattr(job, "run_job", lambda wanted: seen.append(wanted) or 0)
    for options in ([f"--{name.replace('_', '-')}={value}" for name, value in given.items()],
                    ["--steps", "30"]):
        monkeypatch.setattr(sys, "argv", ["vlm_utils", "train", "--output",
                                          str(tmp_path / "run"), *options])
        assert main() == 0
    assert {name: str(value) for name, value in vars(seen[0].settings).items()} == given
    of_profile = TrainingSettings.of(get_profile("tiny"))
    assert seen[1].settings == replace(of_profile, steps=30, warmup_steps=2)    # 150 of 3,000
    assert seen[1].mixture == get_profile("tiny").mixture


@pytest.mark.parametrize("name", ["thesis.csv", "notes.jsonl"])
def test_a_file_that_is_no_metrics_is_not_replaced(monkeypatch, capsys, tmp_path, name):
    (tmp_path / name).write_text("month,sales\n1,2\n")
    said = wrong(monkeypatch, capsys, "--output", str(tmp_path / "run"), "--metrics",
                 str(tmp_path / name))
    assert f"{name} is there, and it is not a file of metrics" in said
    assert (tmp_path / name).read_text() == "month,sales\n1,2\n"
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("content", [b"", b'{"st', b"step,sam", b"\0" * 4096,
                                     b'{"step": 1, "samples": 8}\n{"step": 2, "sam'])
def test_metrics_that_a_power_cut_has_damaged_are_written_again(small_job, tmp_path, content):
    """A trap: a job in a queue that refuses its own file is started again for nothing."""
    (tmp_path / "run.metrics.jsonl").write_bytes(content)
    planning.check_metrics(tmp_path / "run.metrics.jsonl", tmp_path / "run")
    assert job.run_job(small_job()) == 0
    assert [row["step"] for row in rows_of(tmp_path / "run.metrics.jsonl")] == list(range(1, 13))


@pytest.mark.skipif(os.name == "nt" or getattr(os, "geteuid", int)() == 0,
                    reason="to this user nothing is forbidden")
def test_metrics_that_cannot_be_written_are_refused_before_anything_is_loaded(
        monkeypatch, capsys, tmp_path):
    (tmp_path / "closed").mkdir(mode=0o555)
    said = wrong(monkeypatch, capsys, "--output", str(tmp_path / "run"), "--metrics",
                 str(tmp_path / "closed" / "steps.csv"))
    assert "cannot be written: choose another place" in said


# --- how many processes --------------------------------------------------------------------------

def test_who_starts_the_processes(monkeypatch):
    assert processes_to_start(None) == 1 and processes_to_start(3) == 3
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert processes_to_start(None) == processes_to_start(2) == 1   # torchrun has started them
    with pytest.raises(ValueError, match="--processes 4, and a launcher has started 2"):
        processes_to_start(4)


class Parent:
    def __init__(self, line):
        self.line = line

    def parent(self):
        return self

    def cmdline(self):
        return self.line


@pytest.mark.parametrize(("line", "found"), [
    (["python", "/bin/accelerate", "launch", "--num_processes", "3", "--cpu", "-m", "x"], 3),
    (["python", "-m", "accelerate.commands.launch", "--cpu", "--num_processes=2", "x.py"], 2),
    (["accelerate", "launch", "--config_file", "CONFIG", "-m", "x", "train"], 2)])
def test_what_accelerate_was_asked_for_is_read_from_its_command(monkeypatch, line, found):
    """A trap: on a CPU accelerate starts one process, whatever it was asked for."""
    config = REPOSITORY / "vlm_utils" / "scaling" / "configs" / "two_processes_cpu.yaml"
    line = [str(config) if word == "CONFIG" else word for word in line]
    monkeypatch.setattr(launch.psutil, "Process", lambda: Parent(line))
    assert processes_to_start(None) == 1
    monkeypatch.setenv("ACCELERATE_USE_CPU", "True")
    assert processes_to_start(None) == 1                # asked for one
    monkeypatch.setenv("MASTER_PORT", "29500")
    assert processes_to_start(None) == found


def launched_on_a_cpu(monkeypatch, *line):
    monkeypatch.setattr(launch.psutil, "Process", lambda: Parent(line))
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    monkeypatch.setenv("MASTER_PORT", "29500")


def test_a_launcher_that_cannot_be_understood_is_refused(monkeypatch):
    launched_on_a_cpu(monkeypatch, "make", "train")
    with pytest.raises(ValueError, match="one process of several.*--processes"):
        processes_to_start(None)
    assert processes_to_start(3) == 3


def test_a_launcher_that_was_asked_for_another_number_is_refused(monkeypatch):
    config = REPOSITORY / "vlm_utils" / "scaling" / "configs" / "two_processes_cpu.yaml"
    launched_on_a_cpu(monkeypatch, "accelerate", "launch", "--config_file", str(config), "x")
    assert processes_to_start(2) == 2
    with pytest.raises(ValueError, match="--processes 3, and accelerate launch was asked for 2"):
        processes_to_start(3)


def test_accelerate_on_the_cpus_of_several_machines_is_refused(monkeypatch, tmp_path):
    """A trap: it starts one process on each machine, and each of them would train alone."""
    config = REPOSITORY / "vlm_utils" / "scaling" / "configs" / "several_machines.yaml"
    for line in (["--config_file", str(config), "--cpu"],
                 ["--num_machines", "2", "--num_processes", "4", "--cpu"]):
        launched_on_a_cpu(monkeypatch, "accelerate", "launch", *line, "x")
        with pytest.raises(ValueError, match="on 2 machines: start it with torchrun on each"):
            processes_to_start(None)


# --- the job, in this process ------------------------------------------------------------------

@pytest.fixture
def small_job(tmp_path, monkeypatch):
    """A function that makes a job of the small training; `prepare` is not the profile's."""
    def prepare(wanted):
        if find_checkpoints(wanted.output):
            return resume_run(wanted.output, small_dataset(), layout=wanted.layout)
        return small_run(wanted.settings)

    def make(metrics="run.metrics.jsonl", **changes):
        return job.Job(**{
            "profile": get_profile("tiny"), "mixture": {}, "settings": SETTINGS,
            "given": frozenset(), "output": tmp_path / "run", "metrics": tmp_path / metrics,
            "start": None, "evaluate": 0, "log_every": 5, "restart": False,
            "other_processes": False, "layout": Copies()} | changes)

    monkeypatch.setattr(job, "prepare", prepare)
    return make


@pytest.mark.parametrize("name", ["run.metrics.jsonl", "deep/steps.csv"])
def test_each_step_has_one_line_whatever_was_interrupted(small_job, tmp_path, name, capsys,
                                                         monkeypatch):
    def killed_after_six(run, folder, on_step):
        """The last checkpoint is of step 4, the last line of step 6."""
        def on(row):
            on_step(row)
            if row["step"] == 6:
                raise MemoryError
        return original(run, folder, on)

    original = job.train
    with monkeypatch.context() as patched:
        patched.setattr(job, "train", killed_after_six)
        with pytest.raises(MemoryError):
            job.run_job(small_job(name))
    assert len(rows_of(tmp_path / name)) == 6
    assert job.run_job(small_job(name)) == 0
    rows = rows_of(tmp_path / name)
    assert [int(row["step"]) for row in rows] == list(range(1, 13))
    assert [int(row["samples"]) for row in rows] == [8 * n for n in range(1, 13)]
    assert [float(row["loss"]) for row in rows] == losses_of(small_run())
    said = capsys.readouterr().out
    assert re.search(r"step +12 of 12  loss \d+\.\d{4}  [\d.]+ samples/s  \d+ s", said)


def rows_of(path: Path) -> list[dict]:
    with open(path, encoding="utf-8", newline="") as lines:
        return list(csv.DictReader(lines)) if path.suffix == ".csv" \
            else [json.loads(line) for line in lines]


def test_a_queue_that_takes_the_machine_back_finds_a_checkpoint(small_job, tmp_path, monkeypatch):
    """SIGTERM, twice, as a queue and a launcher send it: the step is finished and saved."""
    original, whole = job.train, losses_of(small_run())

    def taken_back(run, folder, on_step):
        def on(row):
            on_step(row)
            if row["step"] == 6:
                signal.raise_signal(signal.SIGTERM)
                signal.raise_signal(signal.SIGTERM)
        return original(run, folder, on)

    before = signal.getsignal(signal.SIGTERM)
    with monkeypatch.context() as patched:
        patched.setattr(job, "train", taken_back)
        assert job.run_job(small_job()) == 143
    assert signal.getsignal(signal.SIGTERM) is before
    assert find_checkpoints(tmp_path / "run")[0].steps == 6
    assert job.run_job(small_job()) == 0
    assert [row["loss"] for row in rows_of(tmp_path / "run.metrics.jsonl")] == whole


def test_a_job_whose_launcher_was_killed_does_not_train_on_alone(small_job, tmp_path, monkeypatch):
    """Else it would keep the folder to itself, and the same command could not go on."""
    parents = iter([7, 7, 7, 7, 1, 1])          # at the start, and after each step
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    monkeypatch.setattr(job.os, "getppid", lambda: next(parents))
    assert job.run_job(small_job()) == 143
    assert find_checkpoints(tmp_path / "run")[0].steps == 4


def test_a_training_that_cannot_go_on_ends_with_one_line(small_job, tmp_path, monkeypatch, capsys):
    def full(*arguments):
        raise OSError(28, "the disk is full")
    monkeypatch.setattr("vlm_utils.sources.folders.seal", full)
    assert job.run_job(small_job()) == 1
    *_, last = capsys.readouterr().err.splitlines()
    assert last.strip() == ("OSError: [Errno 28] the disk is full. No checkpoint had been written: "
                            "the same command begins again")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device here that is always full")
def test_metrics_on_a_full_disk_end_the_job_with_their_name_and_the_last_checkpoint(
        small_job, tmp_path, monkeypatch, capsys):
    def kept(self):
        opened.append(self)
        return entered(self)

    original, opened, entered = job.train, [], job.Metrics.__enter__
    monkeypatch.setattr(job.Metrics, "__enter__", kept)

    def train(run, folder, on_step):
        def on(row):
            if row["step"] == 6:
                opened[0].file = open("/dev/full", "w")
            on_step(row)
        return original(run, folder, on)

    monkeypatch.setattr(job, "train", train)
    assert job.run_job(small_job()) == 1
    said = capsys.readouterr().err.splitlines()[-1]
    assert "run.metrics.jsonl cannot be written (No space left on device). The last" in said
    assert re.search(r"run\.unfinished/4-steps-\d+, step 4 of 12: the same command goes on", said)


def test_going_on_takes_the_settings_of_the_checkpoint_and_lays_the_given_ones_on_top(
        small_job, tmp_path):
    losses_of(small_run(), tmp_path / "run", interrupt_after(5))
    (last,) = find_checkpoints(tmp_path / "run")
    of_profile = TrainingSettings.of(get_profile("tiny"))
    found = job.going_on(small_job(settings=of_profile), last)
    assert found["settings"] == SETTINGS and found["steps"] is None
    found = job.going_on(small_job(settings=replace(of_profile, steps=20, window=7),
                                   given=frozenset({"steps", "window"})), last)
    assert found["steps"] == 20 and found["settings"] == replace(SETTINGS, window=7)


def test_settings_of_another_version_end_the_job_with_one_line(small_job, tmp_path, capsys,
                                                              monkeypatch):
    losses_of(small_run(), tmp_path / "run", interrupt_after(5))
    (last,) = find_checkpoints(tmp_path / "run")
    older = replace(last, facts=last.facts | {"settings": {"epochs": 3}})
    monkeypatch.setattr(job, "prepare", lambda wanted: job.going_on(wanted, older))
    assert job.run_job(small_job()) == 1
    assert "whose settings this version does not know" in capsys.readouterr().err


def test_a_loss_that_is_no_number_ends_the_job_with_one_line(small_job, monkeypatch, capsys):
    def diverges(*arguments):
        raise FloatingPointError("the loss is nan: lower the learning rate")
    monkeypatch.setattr(job, "train", diverges)
    assert job.run_job(small_job()) == 1
    assert capsys.readouterr().err.splitlines()[-1] == (
        "FloatingPointError: the loss is nan: lower the learning rate")


@pytest.mark.parametrize("before", [signal.default_int_handler, signal.SIG_IGN])
@pytest.mark.parametrize("when", ["reads", "asks"])
def test_told_to_end_while_nothing_trains_it_ends_at_once_and_says_so(
        small_job, tmp_path, monkeypatch, capsys, when, before):
    """SIGTERM, also where a script has started the job with & and so ignores SIGINT. A job that
    had been told while it asked the model was never asked again: nothing was left to train."""
    asked = []

    def terminated(*arguments):
        signal.raise_signal(signal.SIGTERM)

    def ask(wanted, accelerator):
        asked.append(wanted)
        job.accuracy_file(wanted).write_text("task\n")

    handler = signal.signal(signal.SIGINT, before)
    try:
        with monkeypatch.context() as patched:
            patched.setattr(job, "prepare" if when == "reads" else "evaluate_job", terminated)
            assert job.run_job(small_job(evaluate=3)) == 143
    finally:
        signal.signal(signal.SIGINT, handler)
    place = brief(tmp_path / "run")
    assert capsys.readouterr().err.splitlines()[-1] == {
        "reads": "ended before the first checkpoint: the same command begins again",
        "asks": f"ended after the training: {place} is whole; the same command asks it"}[when]
    monkeypatch.setattr(job, "evaluate_job", ask)
    for _ in range(3):                          # asked once, and then nothing is left to do
        if when == "asks":
            monkeypatch.setattr(job, "prepare", lambda wanted: None)
        assert job.run_job(small_job(evaluate=3)) == 0
    assert len(asked) == 1


def test_the_same_command_a_second_time_leaves_the_metrics_of_the_first_alone(small_job, tmp_path,
                                                                             monkeypatch, capsys):
    """A trap: the second job was refused its folder, after it had emptied the first one's file."""
    original, seen = job.train, []

    def started_again(run, folder, on_step):
        def on(row):
            on_step(row)
            if row["step"] == 6:
                with monkeypatch.context() as other_process:
                    other_process.setattr(job, "hold", in_use)
                    seen.append(job.run_job(small_job()))
                seen.append(len(rows_of(tmp_path / "run.metrics.jsonl")))
        return original(run, folder, on)

    def in_use(folder):
        raise FolderInUse(f"{folder} is being written by process 7")

    monkeypatch.setattr(job, "train", started_again)
    assert job.run_job(small_job()) == 0
    assert seen == [1, 6] and "is being written by process 7" in capsys.readouterr().err
    assert len(rows_of(tmp_path / "run.metrics.jsonl")) == 12


# --- the profile's own job, in this process -------------------------------------------------------

@pytest.fixture
def command(monkeypatch, tmp_path):
    """A function that runs `train --output run` with options on few images, in this process."""
    monkeypatch.setenv("VLM_SUBSET", str(SMALLEST_SUBSET))
    monkeypatch.chdir(tmp_path)

    def run(*options):
        monkeypatch.setattr(sys, "argv", ["vlm_utils", "train", "--output", "run", *options])
        return main()
    return run


def test_a_seed_is_that_of_the_checkpoint_and_a_finished_training_is_not_gone_on_with(
        command, capsys):
    """Both were taken from the profile where they were not given again."""
    assert command(*SMALL, "--steps", "4", "--seed", "5") == 0
    assert command(*SMALL, "--steps", "6") == 0
    assert "going on after step 4 from run" in capsys.readouterr().out
    assert command(*SMALL) == 0
    assert "nothing to do: run was trained to step 6 of 6" in capsys.readouterr().out
    assert command(*SMALL, "--steps", "8", "--seed", "6") == 1
    assert "'seed': (5, 6)" in capsys.readouterr().err


@pytest.mark.parametrize(("options", "words"), [
    (["--mixture", "sequence 2-4: 20"], "asks for sequence 2-4 alone, which these images do not"),
    (["--mixture", "select 2: 3", "--batch-size", "8"], "3 samples do not fill one batch of 8"),
    (["--mixture", "describe 1: 20", "--evaluate", "5"], "of describe 1 no answer is right or")])
def test_what_the_images_do_not_tell_is_refused_before_training(command, tmp_path, monkeypatch,
                                                                 capsys, options, words):
    photographs(tmp_path / "mine", monkeypatch)
    assert command("--steps", "2", *options) == 1
    assert words in capsys.readouterr().err
    assert not list(tmp_path.glob("run*"))


def test_what_the_images_do_not_tell_is_left_out_and_named(command, tmp_path, monkeypatch, capsys):
    photographs(tmp_path / "mine", monkeypatch)
    assert command("--steps", "2", "--batch-size", "4", "--mixture",
                   "select 2: 20, sequence 2-4: 20, locate 1: 5") == 0
    assert "left out, because these images do not tell them: sequence 2-4, locate 1" in \
        capsys.readouterr().out


def photographs(folder: Path, monkeypatch) -> None:
    folder.mkdir()
    for k in range(24):
        noise(k).save(folder / f"{k}.png")
    (folder / "metadata.jsonl").write_text("\n".join(json.dumps(
        {"file_name": f"{k}.png", "caption": f"Thing {k}."}) for k in range(24)))
    monkeypatch.setenv("VLM_IMAGES", str(folder))


# --- commands of their own -----------------------------------------------------------------------

@with_gloo
def test_accelerate_starts_two_processes_one_dies_and_torchrun_and_one_process_go_on(tmp_path):
    """The full profile on a miniature hub, in shards. Each start of a process costs seconds of
    imports, so one training goes through all of it: killed, told to end, finished, evaluated."""
    (tmp_path / "hub").mkdir()
    write_miniature(tmp_path / "hub", PROFILES["full"], {"train": 20, "validation": 18, "test": 4})
    train = ["-m", "vlm_utils", "train", "--profile", "full", "--output", "run", "--steps", "400",
             "--checkpoint-every", "4", *SMALL, "--shard"]
    accelerate = [str(Path(sys.executable).with_name("accelerate")), "launch", "--num_processes",
                  "2", "--cpu", *train]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node",
                "2", *train]
    options = {"cwd": tmp_path, "text": True, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE,
               "env": environment(tmp_path, HF_HUB_CACHE=str(tmp_path / "hub"), HF_HUB_OFFLINE="1",
                                  HF_DATASETS_CACHE=str(tmp_path / "datasets"))}
    path = tmp_path / "run.metrics.jsonl"

    running = subprocess.Popen(accelerate, **options)
    try:
        until(lambda: path.exists() and len(path.read_text().splitlines()) > 5 or running.poll())
        os.kill(worker_of(running.pid, rank=1), signal.SIGKILL)
        out, errors = running.communicate(timeout=600)      # it does end
    finally:
        running.kill()
    assert running.returncode == 1, out + errors
    assert "profile full, 24 samples, 2 processes (shards) on cpu" in out
    assert re.search(
        r"another process of this training ended after step \d+, so this one ends too\. The last "
        r"checkpoint is run\.unfinished/\d+-steps-\d+, step \d+ of 400: the same command goes on "
        "from there", errors)
    assert "process 1 of 2 was ended by SIGKILL" in errors
    found = find_checkpoints(tmp_path / "run")[0]
    found.verify()
    assert found.facts["layout"] == "shards" and found.facts["processes"] == 2

    before = {row["step"]: row["loss"] for row in rows_of(path)}
    again = subprocess.Popen(torchrun, **options)
    until(lambda: len(path.read_text().splitlines()) > len(before) + 2 or again.poll())
    again.send_signal(signal.SIGTERM)
    out, errors = again.communicate(timeout=600)
    assert f"going on after step {found.steps} from run.unfinished" in out
    after = {row["step"]: row["loss"] for row in rows_of(path)}
    assert before.items() <= after.items() and len(after) > len(before)
    (found,) = find_checkpoints(tmp_path / "run")
    assert found.steps == len(after)                        # SIGTERM: it was saved
    assert re.search(rf"ended after step {len(after)} of 400, which run\.unfinished/\S+ holds: the "
                     "same command goes on from there", out)

    done = subprocess.run([sys.executable, *train, "--other-processes", "--steps",
                           str(len(after) + 2), "--evaluate", "13"], **options)
    assert done.returncode == 0, done.stdout + done.stderr
    assert [row["step"] for row in rows_of(path)] == list(range(1, len(after) + 3))
    (row,) = rows_of(tmp_path / "run.accuracy.csv")
    assert (row["task"], row["samples"]) == ("select", "13")
    (found,) = find_checkpoints(tmp_path / "run")
    found.verify()
    assert found.finished and found.facts["layout"] == "shards"


def worker_of(pid: int, rank: int) -> int:
    """The process with that rank among those that a command has started."""
    import psutil
    for child in psutil.Process(pid).children(recursive=True):
        if child.environ().get("RANK") == str(rank):
            return child.pid
    raise AssertionError(f"no process of rank {rank}")


def until(found, seconds=600):
    end = time.monotonic() + seconds
    while not found():
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks processes")
@with_gloo
def test_killed_at_random_moments_two_processes_go_on_to_the_same_losses():
    done = subprocess.run(
        [sys.executable, str(REPOSITORY / "tests" / "kill_processes.py"), "--kills", "3",
         "--seed", "1"], env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 of 3 kills left a whole checkpoint and equal losses" in done.stdout
