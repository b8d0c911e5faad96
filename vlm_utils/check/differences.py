"""How a result differs from what was expected, in values, in kind, and in words."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch


def same(result, expected) -> bool:
    """Equal in shape and, to a relative 1e-4, in values. Never raises, whatever the result is."""
    try:
        if result is expected:
            return True
        if isinstance(expected, torch.Tensor | np.ndarray):
            result, expected = torch.as_tensor(result), torch.as_tensor(expected)
            return result.shape == expected.shape and torch.allclose(
                result.double(), expected.double(), rtol=1e-4, atol=1e-6)
        if isinstance(expected, dict):
            return result.keys() == expected.keys() and all(
                same(result[key], expected[key]) for key in expected)
        if isinstance(expected, list | tuple):
            result = result.tolist() if hasattr(result, "tolist") else result
            return not isinstance(result, str) and len(result) == len(expected) and all(
                same(a, b) for a, b in zip(result, expected, strict=True))
        if isinstance(expected, float):
            return bool(abs(float(result) - expected) <= 1e-4 * max(1e-2, abs(expected)))
        return bool(result == expected)
    except Exception:
        return False


def wrong_kind(result, expected) -> str | None:
    """Right values in the wrong kind of thing, in words: a list for a tensor, 3.0 for a count."""
    if isinstance(expected, torch.Tensor):
        if not isinstance(result, torch.Tensor):
            return (f"the values are right, and this is {_a(result)}: return a tensor: the "
                    "model takes nothing else")
        if result.is_floating_point() and not expected.is_floating_point():
            return (f"the values are right, and they are floats ({result.dtype}): token ids and "
                    "labels are whole numbers, so give the tensor dtype=torch.long")
    if type(expected) is int and _is_float(result):
        return ("the value is right, and it is a float: a count is a whole number, and // keeps "
                "it one where / does not")
    return None


def difference(result, expected) -> str:
    """What can be said of a result that no known mistake gives."""
    if isinstance(expected, torch.Tensor) and isinstance(result, torch.Tensor):
        if result.shape != expected.shape:
            return (f"the shape is {tuple(result.shape)}, and {tuple(expected.shape)} "
                    "was expected")
        where = (~torch.isclose(result.double(), expected.double())).nonzero()[0].tolist()
        return f"the values differ, first at position {where}"
    if isinstance(result, Iterator):
        return (f"the result is {_a(result)}, which has no values yet: use return in place of "
                "yield, or list(...)")
    if isinstance(expected, list | tuple) and isinstance(result, list | tuple):
        if len(result) != len(expected):
            return f"the result has {len(result)} items, and {len(expected)} were expected"
    elif type(result) is not type(expected) and not isinstance(result, int | float):
        return f"the result is {_a(result)}, and {_a(expected)} was expected"
    return "the result differs from the expected one"


def _a(value) -> str:
    """The type of a value with its article, as students know it: "a list", "an int"."""
    names = {np.ndarray: "NumPy array", torch.Tensor: "tensor", str: "text"}
    name = names.get(type(value), type(value).__name__)
    return f"{'an' if name[0].lower() in 'aeiou' else 'a'} {name}"


def _is_float(value) -> bool:
    if isinstance(value, torch.Tensor):
        return value.is_floating_point()
    return isinstance(value, float | np.floating)
