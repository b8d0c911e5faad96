"""What all checks share: call a student's function, compare, and say what is wrong.

A checker raises Mistake; `exercise` turns it into a check, which prints and never raises. What is
said of a result that no known mistake explains is in `differences`.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import linecache
import pprint
import sys
import textwrap
import traceback
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch

from vlm_utils.check.differences import difference, same, wrong_kind

PASSED, NOT_ATTEMPTED, NOT_YET = "passed", "not attempted yet", "not yet"
_ABSENT = object()
_LONGEST = 4000  # characters of one value


class NotAttempted(Exception):
    """The student's function is still the stub."""


@dataclass(frozen=True)
class Verdict:
    """What a check says of an attempt. status: PASSED, NOT_ATTEMPTED or NOT_YET. text: all that
    the check prints. summary: the mistake in one line, empty if there is none."""

    status: str
    text: str
    summary: str = ""


class Mistake(Exception):
    """What is wrong, in a sentence, and the case that shows it: input, result, expected result."""

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

    What the checker returns, if anything, is printed under "passed". The check's `judge` returns
    the same as a Verdict and prints nothing of its own.
    """
    def judge(student: Callable) -> Verdict:
        try:
            details = checker(student)
        except NotAttempted:
            return Verdict(NOT_ATTEMPTED, NOT_ATTEMPTED)
        except Mistake as mistake:
            return Verdict(NOT_YET, mistake.report(), mistake.message.split("\n")[0])
        except Exception as error:  # a result so unlike the expected one that reading it failed
            summary = (f"the result could not be read ({type(error).__name__}: {error}): compare "
                       "it with the docstring of the exercise")
            return Verdict(NOT_YET, f"{NOT_YET}: {summary}", summary)
        return Verdict(PASSED, "\n".join([PASSED, *(details or [])]))

    @functools.wraps(checker)
    def check(student: Callable) -> None:
        print(judge(student).text)

    check.judge = judge
    return check


class _Listener:
    """Hands what is printed on to where it goes, and remembers whether anything was."""

    def __init__(self, stream):
        self.stream, self.heard = stream, False

    def write(self, text: str) -> int:
        self.heard = self.heard or bool(text.strip())
        return self.stream.write(text)

    def __getattr__(self, name: str):
        return getattr(self.stream, name)


def call(student: Callable, inputs: dict, may_change: Iterable[str] = (), returns: bool = True,
         advice: dict[type, str] | None = None):
    """Call a student's function with copies of the inputs, in order; returns its result.

    may_change: inputs handed over as they are, because changing them is the point. advice: what
    is said besides if an error of this type is raised. Raises NotAttempted, or Mistake for an
    exception, for None, and for an input that was changed.
    """
    given = {name: value if name in may_change else copy.deepcopy(value)
             for name, value in inputs.items()}
    listener = _Listener(sys.stdout)
    try:
        with contextlib.redirect_stdout(listener):
            result = student(*given.values())
    except (Exception, SystemExit) as error:
        if _is_stub(error):
            raise NotAttempted from None
        told = [_told(student, error, inputs), (advice or {}).get(type(error))]
        raise Mistake("\n".join(filter(None, told)), inputs) from None
    changed = [name for name in inputs if not same(given[name], inputs[name])]
    if changed:
        raise Mistake(f"your function changes its input {changed[0]}: the caller may still need "
                      "it, so work on a copy (a tensor has .clone(), a list .copy())", inputs)
    if returns and result is None and listener.heard:
        raise Mistake("your function prints and returns nothing (None): nobody can compute with "
                      "what is only printed, so put return in place of print", inputs)
    if returns and result is None:
        raise Mistake("your function returns nothing (None): end it with return", inputs)
    return result


def expect(result, expected, inputs: dict, mistakes: Sequence[tuple] = ()) -> None:
    """Raise Mistake unless the result is what was expected.

    mistakes: (what a known wrong way gives on these inputs, a sentence that names it).
    """
    if same(result, expected):
        if kind := wrong_kind(result, expected):
            raise Mistake(kind, inputs, result, expected)
        return
    for wrong, message in mistakes:
        if same(result, wrong):
            raise Mistake(message, inputs, result, expected)
    raise Mistake(difference(result, expected), inputs, result, expected)


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
    numbers = " and ".join(map(str, says))
    wanted = f"a ValueError whose message holds {numbers}"
    if not raised:
        raise Mistake(message, inputs, result, wanted)
    error = raised[0]
    told = f"{type(error).__name__}: {error}"
    complete = all(str(number) in str(error) for number in says)
    if not isinstance(error, ValueError):
        raise Mistake(_wrong_error(error, complete, numbers), inputs, told, wanted)
    if not complete:
        raise Mistake("the error does not say both numbers: with them, the reader sees at once "
                      "what is missing", inputs, told, wanted)


def _wrong_error(error: Exception, complete: bool, numbers: str) -> str:
    """What to say of an error that is not a ValueError. complete: its message has the numbers."""
    kind = type(error).__name__
    if isinstance(error, AssertionError):
        rest = "" if complete else f", with a message that holds {numbers}"
        return ("an assert stops this, and asserts vanish when Python runs with -O (python -O): "
                f"raise a ValueError instead{rest}")
    if complete and _last_line(error).startswith("raise "):
        return (f"the message is right and the type is not: raise a ValueError, not {kind}, as "
                "the docstring promises, so that a caller knows what to catch")
    return (f"{kind} was raised by accident, and it does not tell the reader what is wrong: look "
            f"for the case yourself and raise a ValueError whose message holds {numbers}")


def shown(value, indent: int = 0) -> str:
    """A value as a student reads it: in full, unless it is enormous. Never raises."""
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


def _last_line(error: BaseException) -> str:
    """The line of source that raised an error; empty if nobody knows it."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    return linecache.getline(last.filename, last.lineno).strip()


def _is_stub(error: BaseException) -> bool:
    """Is it the stub's own NotImplementedError? PyTorch raises it too, for missing kernels."""
    if not isinstance(error, NotImplementedError):
        return False
    line = _last_line(error)
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
