"""LoRA: train two thin matrices beside each big one, and leave the big one as it is.

Hu et al. 2021. A weight W (out, in) becomes W + scale * B @ A, with A (rank, in) and B (out, rank).
Only A and B have gradients and moments. Added up once, they cost nothing when the model answers.
peft does the work; here is what this course's model needs of it.
"""

from __future__ import annotations

from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model

from vlm_utils.architecture import MultiImageProcessor, MultiImageVLM
from vlm_utils.architecture.adapters import base_of_adapter, put_adapter, without_peft_warnings
from vlm_utils.loading import load_checkpoint

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


def halve_frozen(adapted: PeftModel) -> None:
    """All frozen weights but the projector's: its frozen copy tells the trained one its dtype."""
    for name, weight in adapted.named_parameters():
        if not weight.requires_grad and ".projector." not in name:
            weight.data = weight.data.to(torch.bfloat16)


def save_adapter(adapted: PeftModel, folder: str | Path) -> None:
    """What was trained, and the folder of the model that it was trained on: a few MB.

    An adapter that is in the folder is replaced. Raises FileExistsError if anything else is there,
    ValueError if that model is not in a folder: the adapter alone would be worth nothing.
    """
    folder = Path(folder)
    if folder.exists() and not (folder / "adapter_config.json").is_file() and (
            not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f"{folder} is there and holds no adapter: give a folder of its own")
    base = Path(adapted.get_base_model().config.name_or_path or "nowhere")
    if not (base / "config.json").is_file():
        raise ValueError("the model under the adapter was not loaded from a folder: save it with "
                         "save_pretrained, with its processor, load it from there with "
                         "load_checkpoint, and add the adapter to that")
    adapted.peft_config["default"].base_model_name_or_path = str(base)
    adapted.save_pretrained(folder)


def load_adapter(folder: str | Path) -> tuple[PeftModel, MultiImageProcessor]:
    """The adapter on its base, apart, to be trained further. `load_checkpoint` adds them up.

    Raises FileNotFoundError if there is no adapter, or no base.
    """
    base = base_of_adapter(folder)
    if base is None:
        raise FileNotFoundError(f"no adapter in {folder}: adapter_config.json is missing")
    model, processor = load_checkpoint(base)
    return put_adapter(model, folder, trainable=True), processor
