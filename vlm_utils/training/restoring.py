"""What from_pretrained does not give back of a model in training: its precision, what is frozen,
and how it computes. A run that goes on must go on with them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator
from functools import partial
from itertools import chain

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel


def describe_model(model: nn.Module) -> dict:
    """As json can hold it, and short: a module whose tensors are all alike stands for them.

    dtype: of most tensors; dtypes: of the others. frozen: what does not train. recomputed: modules
    that compute again in the backward pass (activation checkpointing). attention: how each part
    computes it, as "sdpa".
    """
    dtypes = {name: str(tensor.dtype).removeprefix("torch.") for name, tensor in _numbers(model)}
    (most, _), *others = Counter(dtypes.values()).most_common()
    trains = {name: weight.requires_grad for name, weight in model.named_parameters()}
    return {
        "dtype": most,
        "dtypes": {other: _in_short({n for n, dtype in dtypes.items() if dtype == other}, dtypes)
                   for other, _ in others},
        "frozen": _in_short({name for name, does in trains.items() if not does}, trains),
        "recomputed": [name for name, module in _able_to_recompute(model)
                       if module.gradient_checkpointing],
        "attention": {name: part.config._attn_implementation for name, part in _parts(model)}}


def restore_model(model: nn.Module, then: dict) -> None:
    """Make a model that was just loaded the one that describe_model has described.

    Raises ValueError naming a part of it that this model does not have.
    """
    numbers = dict(_numbers(model))
    dtypes = dict.fromkeys(numbers, then["dtype"])
    for other, names in then["dtypes"].items():
        dtypes |= dict.fromkeys(_in_full(names, numbers), other)
    for name, tensor in numbers.items():
        tensor.data = tensor.data.to(getattr(torch, dtypes[name]))
    weights = dict(model.named_parameters())
    frozen = _in_full(then["frozen"], weights)
    for name, weight in weights.items():
        weight.requires_grad_(name not in frozen)
    for name, part in _parts(model):        # the whole comes first, then its parts
        before = then["attention"].get(name)
        if before not in (None, part.config._attn_implementation):
            part.set_attn_implementation(before)
    if then["recomputed"]:
        model.activation_checkpointing_enable()
        for name, module in _able_to_recompute(model):
            module.gradient_checkpointing = name in then["recomputed"]


def name_of(function: Callable) -> str:
    """Of a collator, as a checkpoint remembers it: "vlm_utils.collate.collate"."""
    while isinstance(function, partial):
        function = function.func
    named = function if hasattr(function, "__qualname__") else type(function)
    return f"{named.__module__}.{named.__qualname__}"


# --- parts of a model ----------------------------------------------------------------------------

def _numbers(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Weights and buffers that have a precision."""
    named = chain(model.named_parameters(), model.named_buffers())
    return ((name, tensor) for name, tensor in named if tensor.is_floating_point())


def _able_to_recompute(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    return ((name, module) for name, module in model.named_modules()
            if isinstance(getattr(module, "gradient_checkpointing", None), bool))


def _parts(model: nn.Module) -> Iterator[tuple[str, PreTrainedModel]]:
    """The parts that are models of transformers; each computes attention in a way of its own."""
    return ((name, part) for name, part in model.named_modules()
            if isinstance(part, PreTrainedModel)
            and isinstance(part.config._attn_implementation, str))


def _in_short(names: set[str], among: Collection[str]) -> list[str]:
    """Some of all the names, or "a.b" in the place of all that begin with it."""
    all_, inside = (Counter(prefix for name in group for prefix in _prefixes(name))
                    for group in (among, names))
    return list(dict.fromkeys(
        next(prefix for prefix in _prefixes(name) if all_[prefix] == inside[prefix])
        for name in among if name in names))


def _in_full(short: list[str], among: Collection[str]) -> set[str]:
    """The names that _in_short has shortened."""
    found, wanted = set(), set(short)
    used = set()
    for name in among:
        if by := wanted.intersection(_prefixes(name)):
            found.add(name)
            used |= by
    if missing := sorted(wanted - used):
        raise ValueError(f"the model that was trained had {missing[0]}, and this one has not")
    return found


def _prefixes(name: str) -> list[str]:
    """Of "a.b.c": "", "a", "a.b", "a.b.c"."""
    parts = name.split(".")
    return [".".join(parts[:count]) for count in range(len(parts) + 1)]
