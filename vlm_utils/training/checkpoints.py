"""Checkpoints: written beside the last one and moved into place; read back to go on exactly."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch

from vlm_utils.architecture import MultiImageProcessor, MultiImageVLM
from vlm_utils.loading import recover_checkpoint
from vlm_utils.training.settings import TrainingSettings

_STATE = "training_state.pt"


def save_checkpoint(folder: str | Path, model: MultiImageVLM, processor: MultiImageProcessor,
                    optimizer, schedule, history: list[dict], settings: TrainingSettings) -> None:
    """Model and processor as from_pretrained reads them, and beside them what resuming needs.

    Written to a folder beside and moved into place: a crash leaves the last checkpoint whole.
    """
    folder = Path(folder)
    recover_checkpoint(folder)
    fresh = folder.with_name(folder.name + ".new")
    old = folder.with_name(folder.name + ".old")
    shutil.rmtree(fresh, ignore_errors=True)
    model.save_pretrained(fresh)
    processor.save_pretrained(fresh)
    torch.save({"optimizer": optimizer.state_dict(), "schedule": schedule.state_dict(),
                "history": history, "settings": vars(settings),
                "random": torch.get_rng_state(),
                "random_cuda": torch.cuda.get_rng_state_all()}, fresh / _STATE)
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    fresh.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def load_training_state(folder: str | Path, optimizer, schedule,
                        settings: TrainingSettings) -> list[dict]:
    """Put optimizer, schedule and random state back; returns the history so far.

    The weights are read with from_pretrained before. Raises FileNotFoundError where there is no
    checkpoint, ValueError where it was made with other settings.
    """
    if folder:
        recover_checkpoint(folder)
    folder = Path(folder or "")
    path = folder / _STATE
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint to resume from: {path} is missing")
    state = torch.load(path, weights_only=True, map_location="cpu")
    ours = vars(settings)
    then = state["settings"]
    different = {k: (then.get(k), ours.get(k)) for k in then.keys() | ours.keys()
                 if k != "checkpoint_every" and then.get(k) != ours.get(k)}
    if different:
        raise ValueError(f"{folder} was trained with other settings (then, now): {different}")
    optimizer.load_state_dict(state["optimizer"])
    schedule.load_state_dict(state["schedule"])
    torch.set_rng_state(state["random"])
    if len(state["random_cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["random_cuda"])
    return state["history"]
