"""`python -m vlm_utils train`: a training as a job, alone or one process of several."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import re
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path

import torch
from accelerate import PartialState

from vlm_utils.datasets import (
    TASKS,
    EncodedSamples,
    add_orientations,
    build_tasks,
    is_free_text,
    load_image_table,
)
from vlm_utils.datasets.mixture import parse_mixture
from vlm_utils.loading import load_base_model, load_checkpoint
from vlm_utils.profiles import Profile, TrainingSettings, get_profile, quiet_libraries
from vlm_utils.scaling.processes import evaluate_together
from vlm_utils.scaling.sharding import Shards
from vlm_utils.sources.checkpoints import (
    absolute,
    brief,
    check_place,
    find_checkpoints,
    find_interrupted,
)
from vlm_utils.training import Copies, TrainingRun, encode_table, resume_run, start_run, train
from vlm_utils.training.processes import OtherProcessFailed, in_first_process

# How the libraries say that another process is gone: gloo, NCCL, the store at which they meet.
_GONE = re.compile(r"[Cc]onnection (was )?(closed|reset|refused)|[Bb]roken pipe|[Ss]ocket|"
                   r"remote process exited|NCCL communicator was aborted|[Tt]imed? ?out")


@dataclass(frozen=True)
class Job:
    """What a job is to do, as `plan` has understood its options."""

    profile: Profile
    mixture: dict[str, int]
    settings: TrainingSettings
    given: frozenset[str]           # the settings that were given, and not taken from the profile
    output: Path
    metrics: Path
    start: Path | None
    evaluate: int
    log_every: int
    restart: bool
    other_processes: bool
    layout: Copies


# --- options ---------------------------------------------------------------------------------

def plan(options) -> Job:
    """The job that the options of the command describe.

    Raises ValueError, FileNotFoundError or OSError with one sentence if there is no such job.
    """
    profile = get_profile(options.profile)
    mixture = profile.mixture if options.mixture is None else read_mixture(options.mixture)
    names = [each.name for each in fields(TrainingSettings)]
    given = {name: value for name in names if (value := getattr(options, name)) is not None}
    changes = dict(given)
    if "steps" in given and "warmup_steps" not in given:    # a shorter run warms up for less long
        share = profile.training.warmup_steps / profile.training.steps
        changes["warmup_steps"] = max(1, round(share * given["steps"])) if given["steps"] > 0 else 0
    settings = TrainingSettings.of(profile, **changes)
    output = absolute(options.output)
    check_place(output, 0)
    metrics = absolute(options.metrics or output.with_name(f"{output.name}.metrics.jsonl"))
    if metrics.suffix not in (".jsonl", ".csv"):
        raise ValueError(f"--metrics {metrics.name} ends in neither .jsonl nor .csv")
    if output in metrics.parents or metrics.is_dir():
        raise ValueError(f"--metrics {brief(metrics)} is the folder of the checkpoint, or in it: "
                         "name a file beside it")
    if metrics.exists() and not _is_metrics(metrics):
        raise ValueError(f"--metrics {brief(metrics)} is there, and it is no file of metrics: name "
                         "another, or remove it")
    if options.start is not None and not options.start.is_dir():
        raise FileNotFoundError(f"--start {options.start} is not a folder")
    for name, least in (("evaluate", 0), ("log_every", 1)):
        if getattr(options, name) < least:
            raise ValueError(f"--{name.replace('_', '-')} is at least {least}, not "
                             f"{getattr(options, name)}")
    return Job(profile, mixture, settings, frozenset(given), output, metrics, options.start,
               options.evaluate, options.log_every, options.restart, options.other_processes,
               Shards() if options.shard else Copies())


def read_mixture(text: str) -> dict[str, int]:
    """{"select 2": 100, "sequence 2-4": 50} of "select 2: 100, sequence 2-4: 50", or of a file of
    JSON. Raises ValueError saying what cannot be read, and FileNotFoundError."""
    if text.strip().endswith(".json"):
        path = Path(text.strip())
        if not path.is_file():
            raise FileNotFoundError(f"--mixture {path} is not a file")
        try:
            mixture = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"--mixture {path} is not JSON ({error})") from None
        if not isinstance(mixture, dict) or not all(type(n) is int for n in mixture.values()):
            raise ValueError(f"--mixture {path} holds no object such as "
                             '{"select 2": 100, "sequence 2-4": 50}')
    else:
        mixture = {}
        for part in text.split(","):
            match = re.fullmatch(r"\s*(\S+ [\d-]+)\s*:\s*([\d_]+)\s*", part)
            if match is None:
                raise ValueError(
                    f'--mixture: {part.strip()!r} is not "TASK IMAGES: SAMPLES", as in "select 2: '
                    f'100, sequence 2-4: 50"; tasks are {", ".join(TASKS)}')
            if match[1] in mixture:
                raise ValueError(f"--mixture names {match[1]!r} twice")
            mixture[match[1]] = int(match[2])
    parse_mixture(mixture)
    return mixture


# --- the job ---------------------------------------------------------------------------------

def run_job(job: Job) -> int:
    """Train, go on if a training was interrupted, evaluate; the exit status of the program.

    0: done. 1: it could not go on, and why was said. 143: it was told to end (SIGTERM), was
    interrupted, or its launcher is gone; the same command goes on from the checkpoint it has saved.
    """
    step, launcher = 0, os.getppid() if "TORCHELASTIC_RUN_ID" in os.environ else None
    try:
        with in_this_process():
            run = prepare(job)
            if run is None:
                return 0
            with Metrics(job, run) as metrics, sigterm_stops():
                def on_step(row: dict) -> None:
                    nonlocal step
                    step = row["step"]
                    metrics(row)
                    if launcher is not None and os.getppid() != launcher:
                        raise KeyboardInterrupt         # nobody waits for this job any more
                history = train(run, job.output, on_step)
            if len(history) < run.settings.steps:
                return 143
            if job.evaluate:
                evaluate_job(job, run)
            return 0
    except OtherProcessFailed:
        return 1                                # the one that failed has said why
    except (RuntimeError, ValueError, OSError) as error:
        if isinstance(error, RuntimeError) and several() and _GONE.search(str(error)):
            said = lost(job, step)
        else:
            said = f"{type(error).__name__}: {error}"
        print(f"process {os.environ['RANK']}: {said}" if several() else said,
              file=sys.stderr, flush=True)
        return 1


def prepare(job: Job) -> TrainingRun | None:
    """The run to train: a new one, or the one that was interrupted; None if nothing is left to do.
    """
    found = [] if job.restart else find_checkpoints(job.output)
    last = found[0] if found else None
    if last is not None and last.finished and job.settings.steps <= last.of:
        print(f"nothing to do: {brief(last.path)} was trained to step {last.steps} of {last.of}. "
              "More --steps go on from it, --restart begins again")
        return None
    model, processor = load_base_model(job.profile) if job.start is None \
        else load_checkpoint(job.start)
    table = load_image_table(job.profile, "train", with_truth=True)
    table = add_orientations(table, job.profile.orientations)
    table.image_features = encode_table(table, model, processor)
    samples = EncodedSamples(build_tasks(table, job.mixture, job.settings.seed), processor)
    if last is None:
        run = start_run(model, processor, samples, job.settings, layout=job.layout)
    else:
        del model
        run = resume_run(job.output, samples, layout=job.layout, **going_on(job, last))
    describe(job, run, last)
    return run


def going_on(job: Job, last) -> dict:
    """Arguments of resume_run: the checkpoint's settings, with those that were given laid on top,
    so that it can refuse them by name."""
    then = TrainingSettings(**last.facts["settings"])
    changes = {name: getattr(job.settings, name) for name in job.given}
    steps = changes.pop("steps", then.steps)
    changes.setdefault("checkpoint_every", then.checkpoint_every)
    settings = TrainingSettings(**{**last.facts["settings"], **changes})
    return {"settings": settings, "steps": None if steps == then.steps else steps,
            "other_processes": job.other_processes}


def describe(job: Job, run: TrainingRun, last) -> None:
    """Say what is trained, and by how many processes."""
    processes, settings = run.accelerator.num_processes, run.settings
    print(f"profile {job.profile.name}, {len(run.samples):,} samples, {processes} "
          f"process{'es' * (processes > 1)} ({run.layout.name}) on {run.accelerator.device.type}; "
          f"{settings.steps:,} steps of {settings.batch_size * settings.accumulation} samples, "
          "all processes together", flush=True)
    if last is not None:
        print(f"going on after step {len(run.history)} from {brief(last.path)}", flush=True)


def evaluate_job(job: Job, run: TrainingRun) -> None:
    """Ask the finished checkpoint about unseen places; print the table, and write it beside it."""
    model, processor = load_checkpoint(job.output)
    table = load_image_table(job.profile, "validation", with_truth=True)
    mixture = {name: job.evaluate for name in job.mixture
               if not is_free_text(name.split()[0], table.truth)}
    table.image_features = encode_table(table, model, processor)
    questions = build_tasks(table, mixture, seed=1)
    accuracy = evaluate_together(run.accelerator, model, processor, questions)
    path = job.output.with_name(f"{job.output.name}.accuracy.csv")
    print(accuracy.round(3).to_string(index=False))
    in_first_process(run.accelerator, lambda: accuracy.to_csv(path, index=False))


# --- metrics -----------------------------------------------------------------------------------

def _is_metrics(file: Path) -> bool:
    """Does a file begin as one that `Metrics` has written, or is it empty?"""
    with file.open("rb") as opened:
        first = opened.readline(1000)
    return not first or first.startswith((b'{"step": ', b"step,samples,"))


class Metrics:
    """An on_step that writes a line for each step, and prints one now and then.

    The file is written again from the run's history when it begins: what a killed job had written
    after its last checkpoint is not there twice. Only process 0 writes.
    """

    def __init__(self, job: Job, run: TrainingRun):
        self.job, self.run, self.losses = job, run, []
        self.per_step = run.settings.batch_size * run.settings.accumulation

    def __enter__(self) -> Metrics:
        in_first_process(self.run.accelerator, self._open)
        return self

    def __exit__(self, *error) -> None:
        if self.run.accelerator.is_main_process:
            self.file.close()

    def __call__(self, row: dict) -> None:
        if not self.run.accelerator.is_main_process:
            return
        self._write(row)
        self.losses.append(row["loss"])
        if row["step"] % self.job.log_every == 0 or row["step"] == self.run.settings.steps:
            rate = self.per_step * len(self.losses) / max(1e-9, row["seconds"] - self.since)
            print(f"step {row['step']:6,} of {self.run.settings.steps:,}  loss "
                  f"{sum(self.losses) / len(self.losses):.4f}  {rate:.1f} samples/s  "
                  f"{row['seconds']:.0f} s", flush=True)
            self.losses, self.since = [], row["seconds"]

    def _open(self) -> None:
        self.job.metrics.parent.mkdir(parents=True, exist_ok=True)
        self.file = open(self.job.metrics, "w", encoding="utf-8", newline="")
        self.columns = None
        for row in self.run.history:
            self._write(row)
        self.since = self.run.history[-1]["seconds"] if self.run.history else 0.0

    def _write(self, row: dict) -> None:
        """One line, there for a reader at once."""
        row = {"step": row["step"], "samples": row["step"] * self.per_step, **row}
        if self.job.metrics.suffix == ".jsonl":
            self.file.write(json.dumps(row) + "\n")
        else:
            writer = csv.DictWriter(self.file, list(row))
            if self.columns is None:
                writer.writeheader()
            self.columns = list(row)
            writer.writerow(row)
        self.file.flush()


# --- one process of several --------------------------------------------------------------------

def several() -> bool:
    return int(os.environ.get("WORLD_SIZE", 1)) > 1


@contextmanager
def in_this_process() -> Iterator[None]:
    """Work on the device that is this process's own, and print in the first process alone."""
    quiet_libraries()
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)))
    first = int(os.environ.get("RANK", 0)) == 0
    with contextlib.ExitStack() as stack:
        if not first:
            silent = stack.enter_context(open(os.devnull, "w"))
            stack.enter_context(contextlib.redirect_stdout(silent))
        yield
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            PartialState().wait_for_everyone()  # whoever ended first would cut the others off
            torch.distributed.destroy_process_group()


@contextmanager
def sigterm_stops() -> Iterator[None]:
    """A queue that takes the machine back sends SIGTERM: end after this step, with a checkpoint.

    It comes to each process, and from the launcher once more: only the first one counts.
    """
    came = False

    def stop(number, frame) -> None:
        nonlocal came
        if not came:
            came = True
            signal.raise_signal(signal.SIGINT)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def lost(job: Job, step: int) -> str:
    """What the processes that are left say when one of them was killed."""
    said = f"another process of this training ended after step {step}, so this one ends too. "
    last = find_interrupted(job.output)
    if last is None:
        return said + "No checkpoint had been written: the same command begins again"
    return said + (f"The last checkpoint is {brief(last.path)}, step {last.steps} of {last.of}: "
                   "the same command goes on from there")
