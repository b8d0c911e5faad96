"""LoRA adapters (peft): found, and added to the model that they were trained on."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import xxhash

from vlm_utils.architecture.model import MultiImageVLM

if TYPE_CHECKING:
    from peft import PeftModel

CONFIG = "adapter_config.json"      # as peft names it
# What note_base writes as the "revision" of the base: a checksum, and its precision if it is less.
_REVISION = re.compile(r"xxh3_128 ([0-9a-f]{32})( in bfloat16)?")


def base_of_adapter(folder: str | Path) -> Path | None:
    """The folder of the model that a LoRA adapter was trained on; None if there is no adapter.

    Raises FileNotFoundError if the adapter names no model, or one that is not there, and ValueError
    if there is another one now.
    """
    path = Path(folder) / CONFIG
    if not path.is_file():
        return None
    content = json.loads(path.read_text(encoding="utf-8"))
    name = content.get("base_model_name_or_path")
    remedy = (f"write its folder into the adapter with vlm_utils.scaling.move_base({str(folder)!r},"
              " ITS_FOLDER)")
    if not name:
        raise FileNotFoundError(f"{folder} is a LoRA adapter that does not say of which model: "
                                f"{remedy}")
    if not (Path(name) / "config.json").is_file():
        raise FileNotFoundError(f"{folder} is a LoRA adapter of the model in {name}, and there is "
                                f"no model: {remedy}")
    noted = _REVISION.fullmatch(content.get("revision") or "")
    if noted and noted[1] != fingerprint_of_base(Path(name)):
        raise ValueError(f"{folder} is a LoRA adapter of the model that was in {name}, and another "
                         f"model is there now. If you still have the first, {remedy}")
    return Path(name)


def fingerprint_of_base(folder: Path) -> str:
    """Of the weights in a model's folder, as they are stored."""
    digest = xxhash.xxh3_128()
    for path in sorted(folder.glob("*.safetensors")):
        with open(path, "rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def note_base(adapted: PeftModel, folder: str | Path) -> None:
    """Make an adapter remember the model that it is trained on, before it is saved to a folder.

    Raises ValueError if it could not be loaded from there again: that model lies in no folder, or
    in this one, or more is trained than an adapter holds.
    """
    config = adapted.get_base_model().config
    base = Path(config.name_or_path or "nowhere")
    if not (base / "config.json").is_file():
        raise ValueError("the model under the adapter was not loaded from a folder: save it with "
                         "save_pretrained, with its processor, load it from there with "
                         "load_checkpoint, and add the adapter to that")
    folder, base = Path(folder).absolute(), base.absolute()
    work = folder.with_name(f"{folder.name}.unfinished")    # where a training keeps checkpoints
    if {folder, work} & {base, *base.parents}:
        raise ValueError(f"{folder} holds the model under the adapter, and without it the adapter "
                         "is worth nothing: give the adapter a folder of its own")
    unsaved = [name for name, weight in adapted.named_parameters()
               if weight.requires_grad and not _is_of_adapter(name, adapted)]
    if unsaved:
        raise ValueError(f"{len(unsaved)} weights are trained that are not part of the adapter, as "
                         f"{unsaved[0]}: an adapter does not save them, so freeze them, or name "
                         "their module in modules_to_save")
    half = adapted.get_base_model().get_input_embeddings().weight.dtype == torch.bfloat16
    for settings in adapted.peft_config.values():
        settings.base_model_name_or_path = str(base)
        settings.revision = f"xxh3_128 {fingerprint_of_base(base)}{' in bfloat16' * half}"


def halve_frozen(adapted: PeftModel) -> None:
    """All frozen weights but the projector's: its frozen copy tells the trained one its dtype."""
    for name, weight in adapted.named_parameters():
        kept = weight.requires_grad or ".projector." in name or _is_of_adapter(name, adapted)
        if not kept:
            weight.data = weight.data.to(torch.bfloat16)


def _is_of_adapter(name: str, adapted: PeftModel) -> bool:
    return adapted.base_model.prefix in name or ".modules_to_save." in name


def merge_adapter(adapted: PeftModel) -> MultiImageVLM:
    """The model with what its adapter has learnt added to its weights, in float32.

    It is then a model like any other, to answer or to be trained as a whole.
    """
    return adapted.float().merge_and_unload().freeze_as_saved().eval()


def put_adapter(model: MultiImageVLM, folder: str | Path, trainable: bool = False) -> PeftModel:
    """The model with the adapter in the folder beside it, the two apart: trainable, or to answer.

    The model's weights are halved if they were so while the adapter was trained. Raises ImportError
    if peft is not installed.
    """
    try:
        from peft import PeftModel
    except ImportError as error:
        raise ImportError(f"{folder} is a LoRA adapter: python -m pip install peft, and load it "
                          "again") from error
    with without_peft_warnings():
        adapted = PeftModel.from_pretrained(model, str(folder), is_trainable=trainable)
    noted = _REVISION.fullmatch(adapted.peft_config["default"].revision or "")
    if noted and noted[2]:
        halve_frozen(adapted)
    return adapted


@contextmanager
def without_peft_warnings() -> Iterator[None]:
    """peft reads a name of the model that transformers is about to give up, and is warned of it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
        yield
