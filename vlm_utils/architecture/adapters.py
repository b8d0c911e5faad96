"""LoRA adapters (peft): found, and added to the model that they were trained on."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from vlm_utils.architecture.model import MultiImageVLM

if TYPE_CHECKING:
    from peft import PeftModel

_FILE = "adapter_config.json"       # as peft names it


def base_of_adapter(folder: str | Path) -> Path | None:
    """The folder of the model that a LoRA adapter was trained on; None if there is no adapter.

    Raises FileNotFoundError if the adapter names no model, or one that is not there.
    """
    path = Path(folder) / _FILE
    if not path.is_file():
        return None
    name = json.loads(path.read_text(encoding="utf-8")).get("base_model_name_or_path")
    remedy = f'write its folder as "base_model_name_or_path" into {path}'
    if not name:
        raise FileNotFoundError(f"{folder} is a LoRA adapter that does not say of which model: "
                                f"{remedy}")
    if not (Path(name) / "config.json").is_file():
        raise FileNotFoundError(f"{folder} is a LoRA adapter of the model in {name}, and there is "
                                f"no model: {remedy}")
    return Path(name)


def merge_adapter(model: MultiImageVLM, folder: str | Path) -> MultiImageVLM:
    """The model with what the adapter in the folder has learnt added to its weights.

    Raises ImportError if peft is not installed.
    """
    return put_adapter(model, folder).merge_and_unload()


def put_adapter(model: MultiImageVLM, folder: str | Path, trainable: bool = False) -> PeftModel:
    """The model with the adapter in the folder beside it, the two apart: trainable, or to answer.

    Raises ImportError if peft is not installed.
    """
    try:
        from peft import PeftModel
    except ImportError as error:
        raise ImportError(f"{folder} is a LoRA adapter: python -m pip install peft, and load it "
                          "again") from error
    with without_peft_warnings():
        return PeftModel.from_pretrained(model, str(folder), is_trainable=trainable)


@contextmanager
def without_peft_warnings() -> Iterator[None]:
    """peft reads a name of the model that transformers is about to give up, and is warned of it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
        yield
