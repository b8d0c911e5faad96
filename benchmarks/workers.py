"""A variant in a process of its own, which works only when it is its turn.

So variants alternate, each with its weights and its optimizer, and the most memory that a process
ever took is that of one variant.
"""

from __future__ import annotations

import ctypes
import gc
import multiprocessing
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

MEGABYTE = 1_000_000


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
        """Let it work until its next result. Raises RuntimeError where it fails."""
        if self._waiting:
            self._pipe.send("go")
        try:
            result = self._pipe.recv()
        except EOFError:
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
        _hand_back_memory()     # others need it while this one waits
        pipe.send(result | {"peak_mb": peak_memory()})
        if pipe.recv() == "stop":
            raise _Stop

    try:
        work(turn, *arguments)
    except (_Stop, EOFError, KeyboardInterrupt):
        pass
    except Exception:
        pipe.send({"error": traceback.format_exc()})


def _hand_back_memory() -> None:
    """Freed memory to the operating system: the C library keeps it for the next pass otherwise."""
    gc.collect()
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)


def peak_memory() -> float:
    """The most memory this process has taken so far, in MB: on the GPU where it uses one."""
    import torch
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        return torch.cuda.max_memory_allocated() / MEGABYTE
    status = Path("/proc/self/status")
    if status.is_file():
        # Not getrusage: its maximum would include the parent's memory at the moment of the start.
        line = next(x for x in status.read_text().splitlines() if x.startswith("VmHWM"))
        return int(line.split()[1]) * 1024 / MEGABYTE
    if sys.platform == "win32":
        import psutil
        return psutil.Process().memory_info().peak_wset / MEGABYTE
    import resource
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / MEGABYTE  # bytes on macOS
