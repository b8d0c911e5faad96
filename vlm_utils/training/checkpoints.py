"""Checkpoints: written beside the last one and moved into place; read back to go on exactly."""

from __future__ import annotations

import shutil
from dataclasses import asdict, replace
from pathlib import Path

import torch

from vlm_utils.datasets import EncodedSamples, TaskDataset
from vlm_utils.loading import load_checkpoint, recover_checkpoint
from vlm_utils.profiles import TrainingSettings
from vlm_utils.training.run import TrainingRun, start_run

_STATE = "training_state.pt"


def save_checkpoint(folder: str | Path, run: TrainingRun) -> None:
    """Model and processor as from_pretrained reads them, and beside them what resuming needs.

    Written to a folder beside and moved into place: a crash leaves the last checkpoint whole.
    """
    if not run.accelerator.is_main_process:
        return
    folder = Path(folder)
    recover_checkpoint(folder)
    fresh = folder.with_name(folder.name + ".new")
    old = folder.with_name(folder.name + ".old")
    shutil.rmtree(fresh, ignore_errors=True)
    run.model.save_pretrained(fresh)
    run.processor.save_pretrained(fresh)
    torch.save({"optimizer": run.optimizer.state_dict(), "schedule": run.schedule.state_dict(),
                "history": run.history, "settings": asdict(run.settings),
                "random": torch.get_rng_state(),
                "random_cuda": torch.cuda.get_rng_state_all()}, fresh / _STATE)
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    fresh.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def resume_run(folder: str | Path, dataset: TaskDataset | EncodedSamples,
               settings: TrainingSettings | None = None, collate_fn=None) -> TrainingRun:
    """The run of a checkpoint, to go on as if there had been no interruption.

    Weights, optimizer, schedule, random state and the order of the data are those of the
    checkpoint. settings: if given, they must be those of the checkpoint, except for
    checkpoint_every. Raises FileNotFoundError if there is no checkpoint, ValueError naming the
    settings that differ.
    """
    folder = Path(folder)
    recover_checkpoint(folder)
    path = folder / _STATE
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint to resume from: {path} is missing")
    state = torch.load(path, weights_only=True, map_location="cpu")
    then = TrainingSettings(**state["settings"])
    settings = settings or then
    different = {name: (was, is_now) for (name, was), is_now in zip(
        asdict(then).items(), asdict(settings).values(), strict=True)
        if name != "checkpoint_every" and was != is_now}
    if different:
        raise ValueError(f"{folder} was trained with other settings (then, now): {different}")
    model, processor = load_checkpoint(folder)
    run = start_run(model, processor, dataset,
                    replace(then, checkpoint_every=settings.checkpoint_every), collate_fn)
    run.optimizer.load_state_dict(state["optimizer"])
    run.schedule.load_state_dict(state["schedule"])
    run.history = state["history"]
    torch.set_rng_state(state["random"])
    if len(state["random_cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["random_cuda"])
    return run
