"""Lesson 06: where memory goes, what keeps it alive, and how to free it and prove it."""

from __future__ import annotations

import ctypes
import gc
import sys
import types
import weakref
from dataclasses import dataclass

import psutil
import torch
from IPython import get_ipython
from PIL import Image
from torch import nn

MEGABYTE = 1_000_000


@dataclass(frozen=True)
class MemoryReport:
    """Memory at one moment, in MB. process: what the operating system counts for this process.
    tensors: storage of all tensors that Python can reach, on the CPU and on CUDA together.
    cuda, cuda_reserved, cuda_peak: allocated by torch, kept by its cache, most so far."""

    process: float
    tensors: float
    cuda: float = 0.0
    cuda_reserved: float = 0.0
    cuda_peak: float = 0.0

    def __sub__(self, other: MemoryReport) -> MemoryReport:
        return MemoryReport(*(a - b for a, b in zip(
            vars(self).values(), vars(other).values(), strict=True)))


def memory_report() -> MemoryReport:
    """Memory of this process now, and on CUDA where there is a GPU."""
    process = psutil.Process().memory_info().rss
    cuda = (0, 0, 0)
    if torch.cuda.is_available():
        cuda = (torch.cuda.memory_allocated(), torch.cuda.memory_reserved(),
                torch.cuda.max_memory_allocated())
    return MemoryReport(process / MEGABYTE, sum(_storages().values()) / MEGABYTE,
                        *(size / MEGABYTE for size in cuda))


def training_memory(model: nn.Module, optimizer: torch.optim.Optimizer | None = None) -> dict:
    """What training keeps, in MB: "weights", "gradients" and "optimizer state".

    Activations, which a step needs while it runs, are not among them. Optimizer state is all that
    the optimizer keeps, whatever it is: AdamW two numbers for each trained weight, Muon one.
    """
    def size(tensors) -> float:
        return sum(t.numel() * t.element_size() for t in tensors) / MEGABYTE

    parameters = list(model.parameters())
    states = [] if optimizer is None else [
        value for state in optimizer.state.values() for value in state.values()
        if isinstance(value, torch.Tensor)]
    return {"weights": size(parameters),
            "gradients": size(p.grad for p in parameters if p.grad is not None),
            "optimizer state": size(states)}


def is_freed(reference: weakref.ref) -> bool:
    """Is the object of a weak reference gone? The proof that a release has worked."""
    # Objects that refer to each other in a circle wait for the collector.
    gc.collect()
    return reference() is None


def forget_tracebacks() -> None:
    """Drop the last error: its traceback keeps every variable of every function on the way."""
    # Python keeps the error for its debugger (last_exc: from Python 3.12 on).
    for name in ("last_exc", "last_value", "last_traceback"):
        if hasattr(sys, name):
            setattr(sys, name, None)
    shell = get_ipython()
    if shell is not None:
        # IPython keeps it for %tb, and for %debug, which has a copy of its own once it was used.
        shell.InteractiveTB.tb = shell.InteractiveTB.pdb = None
        # The failed cell's result holds it until the next cell has ended.
        shell.last_execution_result = None


def forget_outputs() -> None:
    """Empty the notebook's memory of results: `Out`, `_`, `__`, `___` and `_1`, `_2`, ..."""
    shell = get_ipython()
    if shell is None:
        return
    # Each result stands under several names, in two dictionaries: %who hides the second one's.
    for names in (shell.user_ns, shell.user_ns_hidden):
        for name in [n for n in names if n[:1] == "_" and n[1:].isdigit()]:
            del names[name]
        for name in ("_", "__", "___"):
            names[name] = ""
    shell.user_ns.get("_oh", {}).clear()                # Out
    # What makes those names keeps the last three itself.
    shell.displayhook._ = shell.displayhook.__ = shell.displayhook.___ = ""
    shell.last_execution_result = None                  # until the next cell has ended


def release(namespace: dict | None = None, *names: str) -> MemoryReport:
    """Delete names of a notebook and all that it keeps unasked; returns the memory then in use.

    namespace: `globals()` of the notebook. What has a close(), as widgets and the Explorer do, is
    closed. Raises KeyError, before anything is deleted, for a name that is not there.
    """
    missing = [name for name in names if name not in (namespace or {})]
    if missing:
        raise KeyError(f"no such name in the notebook: {', '.join(missing)}")
    for name in names:
        # Callbacks keep a widget, and what it shows, until it is closed.
        _close(namespace.pop(name))
    # The notebook itself keeps results, and the last error with all its variables.
    forget_outputs()
    forget_tracebacks()
    # Objects that refer to each other in a circle wait for the collector.
    gc.collect()
    # torch and the C library keep what was freed for later use: back to the GPU and the system.
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    trim_heap()
    return memory_report()


def holders(thing: object, depth: int = 3) -> list[str]:
    """Who keeps an object alive, in words: names of a notebook, `Out`, variables, containers.

    depth: how many containers inside each other are followed. Of the variables of functions that
    still run, Python tells nothing from 3.11 on.
    """
    found: list[str] = []
    ignore = {id(sys._getframe())}
    _describe_holders(thing, depth, "", found, ignore)
    return sorted(set(found))


def _close(thing: object) -> None:
    """Close what has a close(), asked of its class: of a module, os say, close is another matter.

    A picture is left as it is: its close() would empty it for all who still use it.
    """
    if hasattr(type(thing), "close") and not isinstance(thing, Image.Image):
        thing.close()


def _tensors() -> list[torch.Tensor]:
    found = []
    for thing in gc.get_objects():
        # By type: isinstance would ask lazy objects for their class, and make them speak up.
        if not issubclass(type(thing), torch.Tensor) or thing.device.type == "meta":
            continue
        try:
            thing.untyped_storage().nbytes()
            found.append(thing)
        except (RuntimeError, NotImplementedError):
            continue  # a tensor without storage of its own, as a sparse one
    return found


def _storages() -> dict[int, int]:
    """Bytes by storage, so that views of one storage count once."""
    return {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in _tensors()}


def _describe_holders(thing, depth, path, found, ignore) -> None:
    referrers = gc.get_referrers(thing)
    ignore = ignore | {id(referrers), id(found)}
    for holder in referrers:
        if id(holder) in ignore or holder is found:
            continue
        if isinstance(holder, types.FrameType):
            if holder.f_code.co_filename != __file__:
                found.append(_describe_frame(holder) + path)
        elif isinstance(holder, types.GeneratorType | types.CoroutineType):
            found.append(f"a variable of {holder.__name__}, which waits to go on{path}")
        elif isinstance(holder, dict):
            _describe_dict(holder, thing, path, found)
        elif isinstance(holder, list | tuple | set | types.CellType) and depth:
            _describe_holders(holder, depth - 1, f", in a {type(holder).__name__}{path}", found,
                              ignore | {id(thing)})


def _describe_frame(frame: types.FrameType) -> str:
    """A function's variables keep an object while it runs, and longer if its frame is kept."""
    name = frame.f_code.co_name
    for running in sys._current_frames().values():          # the innermost one of each thread
        while running is not None:
            if running is frame:
                return f"a variable of the running function {name}"
            running = running.f_back
    by_traceback = any(isinstance(h, types.TracebackType) for h in gc.get_referrers(frame))
    return (f"a variable of the function {name}, "
            + ("whose frame a traceback keeps" if by_traceback else "whose frame is kept"))


def _describe_dict(holder: dict, thing: object, path: str, found: list[str]) -> None:
    shell = get_ipython()
    if any(isinstance(h, types.FrameType) and h.f_locals is holder and h.f_globals is not holder
           for h in gc.get_referrers(holder)):
        return      # a copy that a debugger asked for; the frame itself is named
    for key in [key for key, value in holder.items() if value is thing]:
        if shell is not None and holder is shell.user_ns.get("_oh"):
            found.append(f"Out[{key}]{path}")
        elif shell is not None and holder is shell.user_ns:
            found.append(f"the notebook's name {key}{path}")
        elif shell is not None and holder is shell.user_ns_hidden:
            found.append(f"the notebook's hidden name {key}{path}")
        elif holder is vars(sys):
            found.append(f"sys.{key}{path}")
        else:
            found.append(f"an attribute or item {key!r}{path}")


def trim_heap() -> None:
    """Freed memory back to the system: glibc keeps it for itself otherwise (Linux only)."""
    if sys.platform == "linux":
        try:
            ctypes.CDLL("libc.so.6").malloc_trim(0)
        except OSError:
            return  # another C library, which has no such call


def _shell():
    try:
        from IPython import get_ipython
    except ImportError:
        return None
    return get_ipython()
