"""LoRA: train two thin matrices beside each big one, and leave the big one as it is.

Hu et al. 2021. A weight W (out, in) becomes W + scale * B @ A, with A (rank, in) and B (out, rank).
Only A and B have gradients and moments. Added up once, they cost nothing when the model answers.
peft does the work; here is what this course's model needs of it.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model

from vlm_utils.architecture import MultiImageProcessor, MultiImageVLM
from vlm_utils.architecture.adapters import (
    CONFIG,
    base_of_adapter,
    halve_frozen,
    note_base,
    put_adapter,
    without_peft_warnings,
)
from vlm_utils.loading import load_checkpoint
from vlm_utils.sources import folders
from vlm_utils.sources.checkpoints import MARKER, absolute, find_checkpoints

# Every weight matrix of the language model's layers. The vision encoder's are called otherwise
# (query, key, value, dense), but a pattern that names its place also holds for another encoder.
MATRICES = r".*language_model.*\.(q|k|v|o|gate|up|down)_proj"


def add_adapter(model: MultiImageVLM, rank: int = 8, scale: float = 2.0,
                half_base: bool = False, seed: int = 0) -> PeftModel:
    """The model with LoRA on all matrices of its language model; it shares the model's weights.

    The projector is trained as a whole, for it is new. B starts at zero, so the model answers as
    before until it has been trained. half_base: keep what is frozen in bfloat16, half the memory;
    what is trained stays in float32, since a small step would be lost in bfloat16's 8 bits.
    seed: of the random A, so that a training that is repeated starts where the first did.
    Raises ValueError if the model has an adapter already, or for a rank below 1.
    """
    if isinstance(model, PeftModel) or hasattr(model, "peft_config"):
        raise ValueError("the model has an adapter already: merge it first, or load the base again")
    if rank < 1:
        raise ValueError(f"the rank of an adapter is at least 1, not {rank}")
    config = LoraConfig(r=rank, lora_alpha=scale * rank, target_modules=MATRICES,
                        modules_to_save=["projector"])
    with torch.random.fork_rng(devices=[]), without_peft_warnings():
        torch.manual_seed(seed)
        adapted = get_peft_model(model, config)
    if half_base:
        halve_frozen(adapted)
    return adapted


def save_adapter(adapted: PeftModel, folder: str | Path) -> None:
    """What was trained, and the folder of the model that it was trained on: a few MB.

    An adapter that is in the folder is replaced. Raises FileExistsError if anything else is there,
    ValueError if that model is not in a folder, because the adapter alone would be worth nothing,
    or if more is trained than the adapter holds.
    """
    folder = Path(folder)
    if folder.exists() and not (folder / CONFIG).is_file() and (
            not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f"{folder} is there and holds no adapter: give a folder of its own")
    if folders.read_marker(folder, MARKER) is not None:
        raise FileExistsError(f"{folder} holds the checkpoint of a training: give another folder")
    note_base(adapted, folder)
    adapted.save_pretrained(folder)


def load_adapter(folder: str | Path) -> tuple[PeftModel, MultiImageProcessor]:
    """The adapter on its base, apart, to be trained further. `load_checkpoint` adds them up.

    A base that was in half precision is so again. Raises FileNotFoundError if there is no adapter,
    or no base.
    """
    base = base_of_adapter(folder)
    if base is None:
        raise FileNotFoundError(f"no adapter in {folder}: adapter_config.json is missing")
    model, processor = load_checkpoint(base)
    return put_adapter(model, folder, trainable=True), processor


def move_base(folder: str | Path, base: str | Path) -> None:
    """Tell an adapter that the model it was trained on now lies in another folder.

    folder: as save_adapter or train wrote it; of an interrupted training, every checkpoint is told.
    Raises FileNotFoundError if there is no adapter, or no model, ValueError if it is another model.
    """
    folder, base = absolute(folder), absolute(base)
    adapters = [path for path in [folder, *(c.path for c in find_checkpoints(folder))]
                if (path / CONFIG).is_file()]
    if not adapters:
        raise FileNotFoundError(f"no adapter in {folder}: {CONFIG} is missing")
    for path in dict.fromkeys(adapters):
        facts = folders.read_marker(path, MARKER)
        if facts is not None:
            folders.verify(path, MARKER)
        before = (path / CONFIG).read_text(encoding="utf-8")
        content = json.loads(before) | {"base_model_name_or_path": str(base)}
        if facts is not None:
            (path / MARKER).unlink()            # it says how the files were, and is written again
        (path / CONFIG).write_text(json.dumps(content, indent=2), encoding="utf-8")
        try:
            base_of_adapter(path)
        except (ValueError, OSError):
            (path / CONFIG).write_text(before, encoding="utf-8")
            raise
        finally:
            if facts is not None:
                folders.seal(path, MARKER, facts)
