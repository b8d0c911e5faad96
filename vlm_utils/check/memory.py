"""Checks of lesson 06: memory predicted, measured, and freed."""

from __future__ import annotations

import gc
import inspect
import weakref
from collections.abc import Callable
from types import SimpleNamespace
from unittest import mock

import psutil
import torch

from vlm_utils.check.report import Mistake, call, exercise, expect
from vlm_utils.memory import MEGABYTE, MemoryReport, is_freed


@exercise
def predict_scores(student: Callable) -> list[str]:
    """The prediction against attention scores that are really computed."""
    tokens, text, batch, heads = 4, 10, 3, 5
    asked = [1, 2, 4, 8]
    result = {n: call(student, {"num_images": n, "tokens_per_image": tokens, "text_tokens": text,
                              "batch_size": batch, "heads": heads}) for n in asked}
    measured = {n: _scores(n * (tokens + 1) + text, batch, heads) for n in asked}

    def ways(length: Callable, factor: float = 4 * batch * heads) -> dict:
        return {n: factor * length(n) for n in asked}

    def row(n: int) -> int:
        return n * (tokens + 1) + text

    inputs = {"num_images": f"each of {asked}", "tokens_per_image": tokens, "text_tokens": text,
              "batch_size": batch, "heads": heads}
    expect(result, measured, inputs, [
        (ways(row), "the length is not squared: every token has a score for every other token"),
        (ways(lambda n: row(n) ** 2, batch * heads),
         "these are scores, not bytes: a float32 takes four"),
        (ways(lambda n: row(n) ** 2, 2 * batch * heads),
         "a float32 takes four bytes, not two"),
        (ways(lambda n: row(n) * (row(n) + 1) / 2),
         "only half of the scores were counted: those that the causal mask hides are computed and "
         "stored too"),
        (ways(lambda n: row(n) ** 2, 4 * batch), "the heads were forgotten: each has its scores"),
        (ways(lambda n: row(n) ** 2, 4 * heads), "the batch was forgotten: each sample has its "
                                                 "scores"),
        (ways(lambda n: (n * tokens + text) ** 2),
         "the identifiers were forgotten: one token more for each image"),
        (ways(lambda n: (n * (tokens + 1 + text)) ** 2),
         "the text was counted once for each image: it stands in the row once"),
        (ways(lambda n: (n * (tokens + 1)) ** 2), "the text was forgotten"),
        (ways(lambda n: n * (tokens + 1) ** 2 + text ** 2),
         "each image was taken by itself: its tokens look at those of the other images too"),
        (ways(lambda n: n * (tokens + 1 + text) ** 2),
         "each image was taken by itself: its tokens look at those of the other images too")])
    return ["images  predicted  measured (bytes)",
            *(f"{n:6}  {int(result[n]):9,}  {measured[n]:8,}" for n in asked)]


def _scores(length: int, batch: int, heads: int) -> int:
    """Bytes of the scores of one attention layer, after computing them."""
    queries = torch.zeros(batch, heads, length, 2)
    return (queries @ queries.transpose(-1, -2)).untyped_storage().nbytes()


class _Work:
    """Returns a tensor of 2 MB; what the system counts for the process grows by 48 MB beside it.

    The count is a stand-in while the student measures: systems count late, and what other work
    has freed a moment ago would be counted against this one.
    """

    def __init__(self):
        self.calls = 0

    def __call__(self) -> torch.Tensor:
        self.calls += 1
        return torch.ones(2 * MEGABYTE // 4)

    def memory_info(self) -> SimpleNamespace:
        return SimpleNamespace(rss=(500 + 50 * self.calls) * MEGABYTE)


@exercise
def measure_tensors(student: Callable) -> None:
    """What a piece of work adds in tensors, no more and no less."""
    gc.collect()  # garbage that goes while the student measures would be counted against the work
    work, other = _Work(), torch.ones(7 * MEGABYTE // 4)    # other: not the work's
    with mock.patch.object(psutil.Process, "memory_info", lambda process: work.memory_info()):
        result = call(student, {"work": work}, may_change=["work"])
    del other
    inputs = {"work": "a function that returns a tensor of 2 MB, and lets the process grow by "
                      "48 MB that are no tensor"}
    if not work.calls:
        raise Mistake("work was never called: work() calls it", inputs, result, 2.0)
    if work.calls > 1:
        raise Mistake(f"work was called {work.calls} times: call it once and keep its "
                      "result", inputs, result, 2.0)
    if isinstance(result, MemoryReport):
        raise Mistake("that is a whole report: take its field tensors", inputs, result, 2.0)
    result = float(result)
    if abs(result - 2) < 0.05:
        return
    if abs(result) < 0.05:
        message = ("nothing was measured: the result was freed before the second measurement, "
                   "or made before the first; give it a name that lives until the end")
    elif abs(result + 2) < 0.05:
        message = "the difference is upside down: after minus before"
    elif abs(result - 2 * MEGABYTE) < 0.05 * MEGABYTE:
        message = "these are bytes: give MB"
    elif 40 < result < 60:
        message = ("this is the process, which also holds what is not a tensor: take the field "
                   "tensors of the report")
    else:
        message = ("this is not what work has added: subtract the tensors that were alive before")
    raise Mistake(message, inputs, result, 2.0)


class _Model(torch.nn.Linear):
    """Large enough to matter, if it were real; a class of its own, so that it can be followed."""


def train_and_fail(references: list) -> None:
    model = _Model(4, 4)
    references.append(weakref.ref(model))
    model(torch.ones(1, 3))                      # the wrong shape


def train_and_fail_again(references: list) -> None:
    try:
        train_and_fail(references)
    except RuntimeError as error:
        raise ValueError("the step failed") from error


def train_and_fail_twice(references: list) -> None:
    try:
        train_and_fail(references)
    except RuntimeError:
        return {}["last checkpoint"]             # fails as well


@exercise
def forget_error(student: Callable) -> None:
    """Afterwards the model is gone, and the error can still be read."""
    for failing in (train_and_fail, train_and_fail_again, train_and_fail_twice):
        references: list[weakref.ref] = []
        error = _failure(failing, references)
        said = str(error)
        inputs = {"error": f"what this raised, and what the caller still holds:\n"
                           f"{inspect.getsource(failing)}"}
        call(student, {"error": error}, may_change=["error"], returns=False)
        if not is_freed(references[0]):
            raise Mistake(_holder(error), inputs, "the model is alive", "the model is freed")
        if str(error) != said:
            raise Mistake("the message is gone: only the tracebacks hold the model, so keep the "
                          "rest for the reader", inputs, str(error), said)


def _failure(failing: Callable, references: list) -> Exception:
    try:
        failing(references)
    except Exception as error:
        return error
    raise AssertionError("it was made to fail")


def _holder(error: Exception) -> str:
    """Why the model still lives: by the error's own traceback, or by that of the one before."""
    if (error.__cause__ or error.__context__) is None:
        return ("the error still has its traceback, and that holds the frame with the model: del "
                "removes your name for the error, not the caller's, and collecting frees nothing "
                "that can still be reached")
    if error.__cause__ is not None:
        return ("the error has a cause with a traceback of its own, and that still holds the "
                "model: follow __cause__ and __context__")
    return ("the error was raised while another one was handled: that one is its __context__, and "
            "its traceback still holds the model")
