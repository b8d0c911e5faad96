"""What all checks share: call a student's function, compare, and say what is wrong.

A checker raises Mistake; `exercise` turns it into a check, which prints and never raises.
"""

from __future__ import annotations

import copy
import functools
import linecache
import pprint
import textwrap
import traceback
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch

_ABSENT = object()
_LONGEST = 4000  # characters of one value


class NotAttempted(Exception):
    """The student's function is still the stub."""


class Mistake(Exception):
    """What is wrong, in a sentence, and the case that shows it: input, what result, what should."""

    def __init__(self, message: str, inputs: dict | None = None, result=_ABSENT, expected=_ABSENT):
        super().__init__(message)
        self.message, self.inputs = message, inputs or {}
        self.result, self.expected = result, expected

    def report(self) -> str:
        lines = [textwrap.fill(line, 76, subsequent_indent=" " * 4)
                 for line in f"not yet: {self.message}".split("\n")]
        if self.inputs:
            lines += ["", "input", *(_indented(f"{name} = {shown(value, len(name) + 3)}")
                                     for name, value in self.inputs.items())]
        if self.result is not _ABSENT:
            lines += ["result", _indented(shown(self.result))]
        if self.expected is not _ABSENT:
            lines += ["expected", _indented(shown(self.expected))]
        return "\n".join(lines)


def exercise(checker: Callable) -> Callable:
    """Make a check of a checker: it prints "passed", what is wrong, or "not attempted yet".

    What the checker returns, if anything, is printed under "passed".
    """
    @functools.wraps(checker)
    def check(student: Callable) -> None:
        try:
            details = checker(student)
        except NotAttempted:
            print("not attempted yet")
        except Mistake as mistake:
            print(mistake.report())
        except Exception as error:  # an answer so unlike the expected one that reading it failed
            print(f"not yet: the result could not be read ({type(error).__name__}: {error}): "
                  "compare it with the docstring of the stub")
        else:
            print("\n".join(["passed", *(details or [])]))
    return check


def call(student: Callable, inputs: dict, may_change: Iterable[str] = (), returns: bool = True):
    """Call a student's function with copies of the inputs, in order; returns what result.

    may_change: inputs handed over as they are, since changing them is the point. Raises
    NotAttempted, or Mistake for an exception, for None, and for an input that was changed.
    """
    given = {name: value if name in may_change else copy.deepcopy(value)
             for name, value in inputs.items()}
    try:
        result = student(*given.values())
    except (Exception, SystemExit) as error:
        if _is_stub(student, error):
            raise NotAttempted from None
        raise Mistake(_told(student, error, inputs), inputs) from None
    changed = [name for name in inputs if not same(given[name], inputs[name])]
    if changed:
        raise Mistake(f"your function changes its input {changed[0]}: the caller may still need "
                      "it, so work on a copy (a tensor has .clone())", inputs)
    if returns and result is None:
        raise Mistake("nothing came back (None): end the function with return", inputs)
    return result


def expect(result, expected, inputs: dict, mistakes: Sequence[tuple] = ()) -> None:
    """Raise Mistake unless the result is what was expected.

    mistakes: (what a known wrong way gives on these inputs, a sentence that names it).
    """
    if same(result, expected):
        return
    for wrong, message in mistakes:
        if same(result, wrong):
            raise Mistake(message, inputs, result, expected)
    raise Mistake(_difference(result, expected), inputs, result, expected)


def expect_error(student: Callable, inputs: dict, says: Sequence[int], message: str) -> None:
    """Raise Mistake unless the student's function raises ValueError with these numbers in it.

    message: names the mistake of not raising.
    """
    raised: list[Exception] = []

    def recorded(*arguments):
        try:
            return student(*arguments)
        except NotImplementedError:
            raise
        except Exception as error:
            raised.append(error)

    result = call(recorded, inputs, returns=False)
    wanted = "a ValueError whose message holds " + " and ".join(map(str, says))
    if not raised:
        raise Mistake(message, inputs, result, wanted)
    told = f"{type(raised[0]).__name__}: {raised[0]}"
    if not isinstance(raised[0], ValueError):
        raise Mistake(f"{type(raised[0]).__name__} came by accident, and tells the reader little; "
                      f"{wanted} was expected", inputs, told, wanted)
    if not all(str(number) in str(raised[0]) for number in says):
        raise Mistake("the error does not say both numbers: with them, the reader sees at once "
                      "what is missing", inputs, told, wanted)


def same(result, expected) -> bool:
    """Equal in shape and, to a relative 1e-4, in values. Never raises, whatever result."""
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


def shown(value, indent: int = 0) -> str:
    """A value as a student reads it: in full, unless something enormous result. Never raises."""
    try:
        if isinstance(value, torch.Tensor) and value.dim() < 3:
            text = f"{value.detach()}"      # without its gradient's name
        elif isinstance(value, str):
            text = value
        else:
            text = pprint.pformat(_plain(value), width=76 - indent, compact=True,
                                  sort_dicts=False)
    except Exception as error:
        text = f"a {type(value).__name__} that cannot be printed ({type(error).__name__})"
    if len(text) > _LONGEST:
        text = f"{text[:_LONGEST]} ... and {len(text) - _LONGEST:,} characters more"
    return text.replace("\n", "\n" + " " * indent)


def _plain(value):
    """Tensors inside a value as nested lists: PyTorch gives each deep bracket lines of its own."""
    if isinstance(value, torch.Tensor):
        return value.detach().double().mul(1e4).round().div(1e4).tolist() \
            if value.is_floating_point() else value.tolist()
    if type(value) is dict:
        return {key: _plain(item) for key, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_plain(item) for item in value)
    return value


def _indented(text: str) -> str:
    return textwrap.indent(text, "    ")


def _difference(result, expected) -> str:
    """What can be said of a result that no known mistake gives."""
    if isinstance(expected, torch.Tensor) and isinstance(result, torch.Tensor):
        if result.shape != expected.shape:
            return (f"the shape is {tuple(result.shape)}, and {tuple(expected.shape)} "
                    "was expected")
        where = (~torch.isclose(result.double(), expected.double())).nonzero()[0].tolist()
        return f"the values differ, first at position {where}"
    kinds = type(result).__name__, type(expected).__name__
    if isinstance(expected, list | tuple) and isinstance(result, list | tuple):
        if len(result) != len(expected):
            return f"{len(result)} items result, and {len(expected)} were expected"
    elif kinds[0] != kinds[1] and not isinstance(result, int | float):
        return f"a {kinds[0]} result, and a {kinds[1]} was expected"
    return "the result differs from the expected one"


def _is_stub(student: Callable, error: BaseException) -> bool:
    """Is it the stub's own NotImplementedError? PyTorch raises it too, for missing kernels."""
    if not isinstance(error, NotImplementedError):
        return False
    last = traceback.extract_tb(error.__traceback__)[-1]
    line = linecache.getline(last.filename, last.lineno)
    return not line or "raise NotImplementedError" in line


def _told(student: Callable, error: BaseException, inputs: dict) -> str:
    """An exception's type and message, and the student's line that it came from."""
    text = f"your function raised {type(error).__name__}: {error}"
    code = getattr(student, "__code__", None)
    lines = [frame for frame in traceback.extract_tb(error.__traceback__)
             if code is not None and frame.filename == code.co_filename]
    if not lines:
        return f"{text} (it is called with {', '.join(inputs)})"
    return f"{text}\n    in line {lines[-1].lineno}: {lines[-1].line}".rstrip()
