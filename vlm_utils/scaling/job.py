"""`python -m vlm_utils train`: a training as a job, alone or one process of several."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch
from accelerate import Accelerator, PartialState

from vlm_utils.datasets import (
    EncodedSamples,
    Truth,
    add_orientations,
    build_tasks,
    is_free_text,
    load_image_table,
)
from vlm_utils.datasets.mixture import feasible
from vlm_utils.loading import load_base_model, load_checkpoint
from vlm_utils.profiles import get_device, quiet_libraries
from vlm_utils.scaling.metrics import Metrics
from vlm_utils.scaling.plan import Job
from vlm_utils.scaling.processes import evaluate_together
from vlm_utils.sources.checkpoints import (
    MARKER,
    Checkpoint,
    brief,
    find_checkpoints,
    find_interrupted,
)
from vlm_utils.sources.folders import hold
from vlm_utils.training import TrainingRun, encode_table, resume_run, start_run, train
from vlm_utils.training.checkpoints import settings_to_go_on
from vlm_utils.training.processes import OtherProcessFailed, in_first_process

# How the libraries say that another process is gone: gloo, NCCL, the store at which they meet.
_GONE = re.compile(r"[Cc]onnection (was )?(closed|reset|refused)|[Bb]roken pipe|[Ss]ocket|"
                   r"remote process exited|NCCL communicator was aborted|[Tt]imed? ?out")


# --- the job -------------------------------------------------------------------------------------

def run_job(job: Job) -> int:
    """Train, go on if a training was interrupted, evaluate; the exit status of the program.

    0: done. 1: it could not go on, and why was said. 143: it was told to end (SIGTERM), was
    interrupted, or its launcher is gone; the same command goes on from the checkpoint it has saved.
    """
    step, launcher = 0, os.getppid() if "TORCHELASTIC_RUN_ID" in os.environ else None

    def on_step(row: dict) -> None:
        nonlocal step
        step = row["step"]
        metrics(row)
        if launcher is not None and os.getppid() != launcher:
            raise KeyboardInterrupt             # nobody waits for this job any more

    try:
        with in_this_process(), sigterm_stops():
            run = prepare(job)
            if run is not None:
                with kept(job, run), Metrics(job, run) as metrics:
                    history = train(run, job.output, on_step)
                if len(history) < run.settings.steps:
                    print(told_to_end(job), flush=True)
                    return 143
            if is_to_evaluate(job):
                evaluate_job(job, run.accelerator if run else Accelerator(
                    cpu=get_device().type == "cpu"))
            return 0
    except KeyboardInterrupt:                   # not while it trained: see StopButton
        say(told_to_end(job))
        return 143
    except OtherProcessFailed:
        return 1                                # the one that failed has said why
    except (RuntimeError, ValueError, OSError, ArithmeticError, ImportError) as error:
        if isinstance(error, RuntimeError) and several() and _GONE.search(str(error)):
            say(f"another process of this training ended after step {step}, so this one ends too. "
                + where_to_go_on(job))
        else:
            said = f"{type(error).__name__}: {error}"
            say(f"{said}. {where_to_go_on(job)}" if step and isinstance(error, OSError) else said)
        return 1


def prepare(job: Job) -> TrainingRun | None:
    """The run to train: a new one, or the one that was interrupted; None if nothing is left to
    train."""
    found = [] if job.restart else find_checkpoints(job.output)
    last = found[0] if found else None
    if last is not None and last.finished and (
            "steps" not in job.given or job.settings.steps <= last.of):
        print(f"nothing to {'train' if is_to_evaluate(job) else 'do'}: {brief(last.path)} was "
              f"trained to step {last.steps} of {last.of}. More --steps go on from it, --restart "
              "begins again", flush=True)
        return None
    settings = job.settings if last is None else going_on(job, last)["settings"]
    model, processor = load_base_model(job.profile) if job.start is None \
        else load_checkpoint(job.start)
    table = load_image_table(job.profile, "train", with_truth=True)
    refuse_what_cannot_be_asked(job, table.truth)
    table = add_orientations(table, job.profile.orientations)
    table.image_features = encode_table(table, model, processor)
    samples = EncodedSamples(build_tasks(table, job.mixture, settings.seed), processor)
    if last is None:
        run = start_run(model, processor, samples, settings, layout=job.layout)
    else:
        del model
        run = resume_run(job.output, samples, layout=job.layout, **going_on(job, last))
    describe(job, run, last)
    return run


def refuse_what_cannot_be_asked(job: Job, truth: Truth) -> None:
    """Say which tasks the images do not tell. Raises ValueError if they tell none, or if none of
    them can be evaluated and that was asked for."""
    told = feasible(truth, job.mixture)
    left = [name for name in job.mixture if name not in told]
    if not any(told.values()):
        raise ValueError(f"the mixture asks for {', '.join(left)} alone, which these images do not "
                         "tell")
    if left:
        print(f"left out, because these images do not tell them: {', '.join(left)}", flush=True)
    if job.evaluate and not graded(job, truth):
        raise ValueError(f"--evaluate {job.evaluate}: of {', '.join(told)} no answer is right or "
                         "wrong. Leave it out, or add a task such as select to the mixture")


def going_on(job: Job, last: Checkpoint) -> dict:
    """Arguments of resume_run: the checkpoint's settings, with those that were given laid on top,
    so that it can refuse them by name."""
    then = settings_to_go_on(last, None, None)
    changes = {name: getattr(job.settings, name) for name in job.given}
    steps = changes.pop("steps", then.steps)
    changes.setdefault("checkpoint_every", then.checkpoint_every)
    return {"settings": replace(then, **changes), "steps": None if steps == then.steps else steps,
            "other_processes": job.other_processes}


def describe(job: Job, run: TrainingRun, last: Checkpoint | None) -> None:
    """Say what is trained, and by how many processes."""
    processes, settings = run.accelerator.num_processes, run.settings
    print(f"profile {job.profile.name}, {len(run.samples):,} samples, {processes} "
          f"process{'es' * (processes > 1)} ({run.layout.name}) on {run.accelerator.device.type}; "
          f"{settings.steps:,} steps of {settings.batch_size * settings.accumulation} samples, "
          "all processes together", flush=True)
    if last is not None:
        print(f"going on after step {len(run.history)} from {brief(last.path)}", flush=True)


@contextmanager
def kept(job: Job, run: TrainingRun) -> Iterator[None]:
    """Keep the folder of the checkpoint for this job before its metrics are touched: they may be
    those of another one that trains into it."""
    with contextlib.ExitStack() as stack:
        in_first_process(run.accelerator, lambda: stack.enter_context(hold(job.output)))
        yield


# --- the evaluation ------------------------------------------------------------------------------

def graded(job: Job, truth: Truth) -> dict[str, int]:
    """What --evaluate asks: so many questions of each task whose answers are right or wrong."""
    return {name: job.evaluate for name in feasible(truth, job.mixture)
            if not is_free_text(name.split()[0], truth)}


def accuracy_file(job: Job) -> Path:
    return job.output.with_name(f"{job.output.name}.accuracy.csv")


def is_to_evaluate(job: Job) -> bool:
    """Was it asked for, and not done since the training ended?"""
    file, marker = accuracy_file(job), job.output / MARKER
    return job.evaluate > 0 and not (file.is_file() and marker.is_file()
                                     and file.stat().st_mtime >= marker.stat().st_mtime)


def evaluate_job(job: Job, accelerator: Accelerator) -> None:
    """Ask the finished checkpoint about unseen places; print the table, and write it beside it."""
    model, processor = load_checkpoint(job.output)
    table = load_image_table(job.profile, "validation", with_truth=True)
    table.image_features = encode_table(table, model, processor)
    questions = build_tasks(table, graded(job, table.truth), seed=1)
    accuracy = evaluate_together(accelerator, model, processor, questions)
    print(accuracy.round(3).to_string(index=False))
    in_first_process(accelerator, lambda: accuracy.to_csv(accuracy_file(job), index=False))


# --- one process of several ----------------------------------------------------------------------

def several() -> bool:
    return int(os.environ.get("WORLD_SIZE", 1)) > 1


@contextmanager
def in_this_process() -> Iterator[None]:
    """Work on the device that is this process's own, and print in the first process alone.

    Several processes find each other here, before `sigterm_stops`: while torch waits for another
    one, Python's handlers do not run, and a process that is told to end would not hear it.
    """
    quiet_libraries()
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)))
    first = int(os.environ.get("RANK", 0)) == 0
    with contextlib.ExitStack() as stack:
        if not first:
            silent = stack.enter_context(open(os.devnull, "w"))
            stack.enter_context(contextlib.redirect_stdout(silent))
        if several():
            PartialState(cpu=get_device().type == "cpu")
        yield
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            PartialState().wait_for_everyone()  # whoever ended first would cut the others off
            torch.distributed.destroy_process_group()


@contextmanager
def sigterm_stops() -> Iterator[None]:
    """A queue that takes the machine back sends SIGTERM: end after this step, with a checkpoint.

    It comes to each process, and from the launcher once more: only the first one counts. While
    nothing is trained, it ends the job at once.
    """
    came = False

    def stop(number, frame) -> None:
        nonlocal came
        if not came:
            came = True
            if callable(signal.getsignal(signal.SIGINT)):
                signal.raise_signal(signal.SIGINT)      # the stop button of a training
            else:                       # ignored, as in what a script has started with &
                raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def say(text: str) -> None:
    """To stderr; one of several processes says which."""
    print(f"process {os.environ['RANK']}: {text}" if several() else text, file=sys.stderr,
          flush=True)


def told_to_end(job: Job) -> str:
    """What a job says that was told to end, or interrupted."""
    last = next(iter(find_checkpoints(job.output)), None)
    if last is None:
        return "ended before the first checkpoint: the same command begins again"
    if last.finished:
        return f"ended after the training: {brief(last.path)} is whole; the same command asks it" \
            if job.evaluate else f"ended, and {brief(last.path)} is whole"
    return (f"ended after step {last.steps} of {last.of}, which {brief(last.path)} holds: the same "
            "command goes on from there")


def where_to_go_on(job: Job) -> str:
    """What a job says of its checkpoint when it was cut off: by the death of a process, a disk."""
    last = find_interrupted(job.output)
    if last is None:
        return "No checkpoint had been written: the same command begins again"
    return (f"The last checkpoint is {brief(last.path)}, step {last.steps} of {last.of}: the same "
            "command goes on from there")
