"""A variant in a process of its own, which works only when it is its turn.

So variants alternate, each with its weights and its optimizer, and the most memory that a process
ever took is that of one variant.
"""

from __future__ import annotations

import gc
import multiprocessing
import traceback
from collections.abc import Callable

import torch

from vlm_utils import memory
from vlm_utils.course.peak import MEGABYTE, peak_memory


class _Stop(Exception):
    """There is no further turn."""


class Worker:
    """work(turn, *arguments) in another process.

    `work` builds what it needs and calls turn(result) whenever it has a result: this hands the
    result over and returns when the parent wants the next one. Start with `next()`, which waits
    for the first result; every result gains `peak_mb`, the process's most memory so far.
    """

    def __init__(self, work: Callable, *arguments):
        context = multiprocessing.get_context("spawn")  # nothing of the parent's memory comes along
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(work, arguments, theirs), daemon=True)
        self._process.start()
        theirs.close()
        self._waiting = False

    def next(self) -> dict:
        """Let it work until its next result. Raises RuntimeError if it fails or has ended."""
        try:
            if self._waiting:
                self._pipe.send("go")
            result = self._pipe.recv()
        except (EOFError, OSError):     # nobody at the other end
            self._process.join()
            raise RuntimeError("a benchmark's process ended without a result (exit code "
                               f"{self._process.exitcode}); was there too little memory?") from None
        if "error" in result:
            raise RuntimeError(result["error"])
        self._waiting = True
        return result

    def stop(self) -> None:
        try:
            self._pipe.send("stop")
        except OSError:
            pass  # it has ended by itself
        self._process.join()


def _serve(work: Callable, arguments: tuple, pipe) -> None:
    def turn(result: dict) -> None:
        gc.collect()
        memory.trim_heap()      # others need it while this one waits
        pipe.send(result | {"peak_mb": _peak_mb()})
        if pipe.recv() == "stop":
            raise _Stop

    try:
        work(turn, *arguments)
    except (_Stop, EOFError, KeyboardInterrupt):
        pass
    except Exception:
        pipe.send({"error": traceback.format_exc()})


def _peak_mb() -> float:
    """The most memory this process has taken so far, in MB: on the GPU if it uses one."""
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        return torch.cuda.max_memory_allocated() / MEGABYTE
    return peak_memory()
