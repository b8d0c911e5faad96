"""Checkpoints: what is in them, and how a run goes on from one as if nothing had happened.

Where they lie and how they take their place, whole or not at all: `sources/checkpoints.py`.
"""

from __future__ import annotations

import pickle
import platform
import random
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, replace
from pathlib import Path

import accelerate
import numpy as np
import torch
import transformers
from accelerate.utils import broadcast_object_list, gather_object

import vlm_utils
from vlm_utils.architecture.adapters import note_base
from vlm_utils.datasets import EncodedSamples, TaskDataset
from vlm_utils.loading import read_model
from vlm_utils.profiles import TrainingSettings, quiet_libraries
from vlm_utils.sources.checkpoints import (
    Checkpoint,
    absolute,
    brief,
    find_checkpoints,
    new_checkpoint,
    read_unchanged,
    reserve,
)
from vlm_utils.sources.folders import DamagedFiles
from vlm_utils.training.fingerprints import in_words
from vlm_utils.training.processes import in_first_process
from vlm_utils.training.restoring import describe_model, name_of, restore_model
from vlm_utils.training.run import Copies, TrainingRun, make_schedule, start_run

STATE = "training_state.pt"


def save_checkpoint(folder: str | Path, run: TrainingRun) -> None:
    """Model and processor as from_pretrained reads them, and beside them what resuming needs.

    A run on its way is kept beside folder; after its last step it becomes folder. All processes
    call this. The first one writes, and in a sharded training each its share of the optimizer's
    state. A crash or a power cut leaves the checkpoint before this one whole.
    """
    states = gather_object([random_state()])        # one for each process
    weights = run.layout.weights(run)               # what is in shards is gathered
    with ExitStack() as stack:                      # if one process fails, nothing has changed

        def begin() -> str:
            stack.enter_context(quiet_libraries())
            fresh = stack.enter_context(new_checkpoint(absolute(folder), describe_run(run)))
            run.model.save_pretrained(fresh, state_dict=weights)
            run.processor.save_pretrained(fresh)
            scaler = run.accelerator.scaler
            torch.save({"optimizer": run.layout.state(run), "history": run.history,
                        "scaler": scaler and scaler.state_dict(), "random": states}, fresh / STATE)
            return str(fresh)

        fresh = broadcast_object_list([in_first_process(run.accelerator, begin)])[0]
        run.layout.write_state(Path(fresh), run)
        in_first_process(run.accelerator, stack.close)      # complete: now it takes its place


def resume_run(folder: str | Path, dataset: TaskDataset | EncodedSamples,
               settings: TrainingSettings | None = None, collate_fn=None,
               steps: int | None = None, layout: Copies | None = None,
               other_processes: bool = False) -> TrainingRun:
    """The run of the last checkpoint, to go on as if there had been no interruption.

    Weights and their precision, what is frozen, optimizer, schedule, random state and the order of
    the data are those of the checkpoint. settings: if given, they must be the checkpoint's, except
    for checkpoint_every. steps: go on to more steps than were planned, finished or not; from here
    on, the learning rate is that of a run of so many steps. layout: as for start_run.
    other_processes: go on with another number of processes than then: over the same data in the
    same order, to the same losses but for rounding, and with other random numbers (dropout).
    Raises FileNotFoundError if there is no checkpoint, DamagedFiles naming the file that is
    damaged, ValueError naming settings, data, collator, layout or number of processes, then and
    now, if they differ.
    """
    found, model, processor, state = read_unchanged(lambda: find_last(absolute(folder)), read_run)
    settings = settings_to_go_on(found, settings, steps)
    layout = layout or Copies()
    run = start_run(model, processor, dataset, settings, collate_fn, layout)
    refuse_other_layout(found, run, other_processes)
    refuse_other_data(found, run)
    layout.read_state(found.path, run, state)
    run.history, run.name = state["history"], found.facts["run"]
    run.schedule = make_schedule(run.optimizer.optimizer, settings, done=len(run.history))
    if run.accelerator.scaler is not None:
        run.accelerator.scaler.load_state_dict(state["scaler"])
    if found.facts["processes"] == run.accelerator.num_processes:
        set_random_state(state["random"][run.accelerator.process_index])
    else:                               # so many generators were never saved: all go on from one
        set_random_state(state["random"][0])
    return run


def describe_run(run: TrainingRun) -> dict:
    """What the marker of a checkpoint says."""
    versions = {module.__name__: module.__version__
                for module in (vlm_utils, torch, transformers, accelerate)}
    return {"steps": len(run.history), "of": run.settings.steps, "run": run.name,
            "settings": asdict(run.settings), "data": run.data, "layout": run.layout.name,
            "model": describe_model(run.model), "collator": name_of(run.loader.collate_fn),
            "processes": run.accelerator.num_processes, "batch_size": "of all processes",
            "versions": versions | {"python": platform.python_version()}}


# --- resuming ------------------------------------------------------------------------------------

def find_last(folder: Path) -> Checkpoint:
    """The checkpoint that was written last, finished or not."""
    found = find_checkpoints(folder)
    if not found:
        raise FileNotFoundError(f"no checkpoint to resume from in {folder}: train(run, folder) "
                                "writes one")
    return found[0]


def read_run(found: Checkpoint) -> tuple:
    """The checkpoint with its model, its processor and the state of its training."""
    model, processor = read_model(found)
    path = found.path / STATE
    try:
        state = torch.load(path, weights_only=True, map_location="cpu")
        missing = {"optimizer", "history", "scaler", "random"} - state.keys()
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError, AttributeError) as error:
        # Not torch's own words: they advise to read such a file without its safeguards.
        raise DamagedFiles(f"{path} cannot be read ({type(error).__name__})") from None
    if missing:
        raise DamagedFiles(f"{path} lacks {sorted(missing)}: it is no state of a training")
    if "model" in found.facts:              # versions before have not written it
        restore_model(model, found.facts["model"])
    return found, model, processor, state


def settings_to_go_on(found: Checkpoint, settings: TrainingSettings | None,
                      steps: int | None) -> TrainingSettings:
    """Those of the checkpoint, with more steps if they are asked for."""
    try:
        then = TrainingSettings(**found.facts["settings"])
    except TypeError as error:
        raise ValueError(f"{brief(found.path)} was written by vlm_utils "
                         f"{found.facts['versions']['vlm_utils']}, whose settings this version "
                         f"does not know ({error}): train again") from None
    settings = settings or then
    if steps is not None:
        if steps < found.steps:
            raise ValueError(f"{brief(found.path)} has come to step {found.steps}: steps={steps} "
                             "would go back")
        then, settings = replace(then, steps=steps), replace(settings, steps=steps)
    different = {name: (was, is_now) for (name, was), is_now in zip(
        asdict(then).items(), asdict(settings).values(), strict=True)
        if name != "checkpoint_every" and was != is_now}
    if different:
        hint = ". For more steps: resume_run(..., steps=...)" if "steps" in different else ""
        raise ValueError(f"{brief(found.path)} was trained with other settings (then, now): "
                         f"{different}{hint}")
    return settings


def refuse_other_layout(found: Checkpoint, run: TrainingRun, other_processes: bool) -> None:
    """Raise ValueError if other processes, or otherwise arranged ones, trained the checkpoint."""
    facts, processes = found.facts, run.accelerator.num_processes
    if (then := facts.get("layout", Copies.name)) != run.layout.name:
        raise ValueError(f"{brief(found.path)} was trained in {then} and is to go on in "
                         f"{run.layout.name}: its optimizer's state is kept in another "
                         "way; go on as then")
    if processes == facts["processes"]:
        return
    said = (f"{brief(found.path)} was trained by {facts['processes']} processes and there are "
            f"{processes} now")
    if not other_processes:
        raise ValueError(f"{said}: start as many as then. With resume_run(..., "
                         "other_processes=True) it goes on over the same data; its losses are then "
                         "equal but for rounding and dropout")
    if facts["processes"] > 1 and "batch_size" not in facts:
        raise ValueError(f"{said}; in that version of vlm_utils batch_size counted the samples of "
                         "one process, so the order of the data would be another: start as many "
                         "as then")


def refuse_other_data(found: Checkpoint, run: TrainingRun) -> None:
    """Raise ValueError if the order of the batches, or what is in them, would be another."""
    if run.data != found.facts["data"]:
        raise ValueError(f"{brief(found.path)} was trained on {in_words(found.facts['data'])}, and "
                         f"now it is given {in_words(run.data)}: resume with the same data")
    collator = name_of(run.loader.collate_fn)
    if (then := found.facts.get("collator", collator)) != collator:
        raise ValueError(f"the batches of {brief(found.path)} were made by {then}, and are made by "
                         f"{collator} now: give resume_run the same collate_fn")


# --- random states -------------------------------------------------------------------------------

def random_state() -> dict:
    """Of torch on the CPU and on each GPU, of numpy and of Python, in types that load safely."""
    _, keys, *rest = np.random.get_state()
    mps = torch.backends.mps.is_available()
    return {"torch": torch.get_rng_state(), "cuda": torch.cuda.get_rng_state_all(),
            "mps": torch.mps.get_rng_state() if mps else None,
            "numpy": [keys.tolist(), *rest], "python": random.getstate()}


def set_random_state(state: dict) -> None:
    """Put it back, as far as there are the same devices."""
    torch.set_rng_state(state["torch"])
    for number, of_gpu in enumerate(state["cuda"][:torch.cuda.device_count()]):
        torch.cuda.set_rng_state(of_gpu, number)
    if state["mps"] is not None and torch.backends.mps.is_available():
        torch.mps.set_rng_state(state["mps"])
    np.random.set_state(("MT19937", *state["numpy"]))
    random.setstate(state["python"])


# --- a training and its folder -------------------------------------------------------------------

@contextmanager
def reserve_folder(folder: str | Path | None, run: TrainingRun) -> Iterator[Path | None]:
    """Keep a folder for this run alone while it trains; yields it, wherever the program goes.

    Raises before the first step if nothing could be saved there: ValueError or OSError saying why,
    FolderInUse naming the process that is training into it.
    """
    if folder is None:
        yield None
        return
    folder, done = absolute(folder), len(run.history)
    if hasattr(run.model, "peft_config"):
        note_base(run.model, folder)        # or what is saved could not be loaded again
    with ExitStack() as stack:
        in_first_process(run.accelerator, lambda: stack.enter_context(
            reserve(folder, bytes_needed(run), run.name)))
        yield folder
    if len(run.history) == done:
        run.accelerator.print("there was no step to train, so nothing was saved: "
                              f"{folder.name} is what it was")


def is_due(run: TrainingRun) -> bool:
    """Is it time for a checkpoint: on the way, or after the last step?"""
    step, every = len(run.history), run.settings.checkpoint_every
    return step == run.settings.steps or (every > 0 and step % every == 0)


def bytes_needed(run: TrainingRun) -> int:
    """What saving takes at most: weights, two numbers for each trained one, the tokenizer; and as
    much again if one checkpoint is written while the one before is still there."""
    tensors = [*run.model.parameters(), *run.model.buffers()]
    size = sum(t.nbytes for t in tensors) + 20_000_000
    size += 2 * sum(t.nbytes for t in tensors if t.requires_grad)
    return size * (2 if run.settings.checkpoint_every else 1)


def how_to_go_on(folder: Path | None, run: TrainingRun) -> str:
    """What to tell someone who has interrupted a training."""
    said = f"interrupted after step {len(run.history)} of {run.settings.steps}"
    if folder is None:
        return said
    last, *others = find_checkpoints(folder)
    said += (f"\nIts checkpoint is {brief(last.path)}. To go on: "
             f"train(resume_run(folder, dataset), folder)")
    if kept := next((c for c in others if c.path == folder), None):
        said += f"\n{folder.name} is what it was before: a training of {kept.steps} steps."
    return said
