"""Lesson 06: where memory goes, what keeps it alive, and how to free it and prove it."""

from __future__ import annotations

import ctypes
import gc
import os
import sys
import types
import weakref
from dataclasses import dataclass

import psutil
import torch
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
    """What training keeps, in MB: weights, gradients, and all that the optimizer keeps (AdamW: two
    moments of each trained weight; Muon: one)."""
    def size(tensors) -> float:
        return sum(t.numel() * t.element_size() for t in tensors) / MEGABYTE

    parameters = list(model.parameters())
    states = [] if optimizer is None else [
        value for state in optimizer.state.values() for value in state.values()
        if isinstance(value, torch.Tensor)]
    return {"weights": size(parameters),
            "gradients": size(p.grad for p in parameters if p.grad is not None),
            "optimizer state": size(states)}


def holders(thing: object, depth: int = 3) -> list[str]:
    """Who keeps an object alive, in words: names in a notebook, `Out`, tracebacks, containers."""
    found: list[str] = []
    ignore = {id(sys._getframe())}
    _describe_holders(thing, depth, "", found, ignore)
    return sorted(set(found))


def forget_tracebacks() -> None:
    """Drop the last error: its traceback holds every frame on the way, with all their variables."""
    for name in ("last_traceback", "last_value", "last_type", "last_exc"):
        if hasattr(sys, name):
            setattr(sys, name, None)
    shell = _shell()
    if shell is not None:
        shell.custom_exceptions = ()
        if getattr(shell, "InteractiveTB", None) is not None:
            shell.InteractiveTB.tb = None
            shell.InteractiveTB.etype = shell.InteractiveTB.evalue = None
        shell._last_traceback = None
        shell.last_execution_result = None


def forget_outputs() -> None:
    """Empty the notebook's memory of results: `Out`, `_`, `__`, `___` and `_1`, `_2`, ..."""
    shell = _shell()
    if shell is None:
        return
    # IPython keeps each result under several names, and a second dictionary of hidden ones.
    for names in (shell.user_ns, shell.user_ns_hidden):
        for name in [n for n in names if n[:1] == "_" and n[1:].isdigit()]:
            del names[name]
        for name in ("_", "__", "___"):
            names[name] = ""
    shell.user_ns.get("_oh", {}).clear()
    shell.displayhook._ = shell.displayhook.__ = shell.displayhook.___ = ""
    shell.last_execution_result = None


def release(namespace: dict | None = None, *names: str) -> MemoryReport:
    """Delete names of a namespace and what a notebook keeps behind one's back; returns the rest.

    namespace: `globals()` of the notebook. Closes the ipywidgets among the names, clears the last
    traceback and cached outputs, collects cycles and gives memory back to the system and the GPU.
    Raises KeyError, before anything is deleted, for a name that is not there.
    """
    namespace = {} if namespace is None else namespace
    missing = [name for name in names if name not in namespace]
    if missing:
        raise KeyError(f"no such name in the notebook: {', '.join(missing)}")
    for name in names:
        thing = namespace.pop(name)
        if hasattr(thing, "close_all") and hasattr(thing, "close"):    # an ipywidgets widget
            thing.close()
        del thing
    forget_tracebacks()
    forget_outputs()
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    _trim_heap()
    return memory_report()


def is_freed(reference: weakref.ref) -> bool:
    """Is the object of a weak reference gone? The proof that a release has worked."""
    gc.collect()
    return reference() is None


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
                found.append(f"a variable of the running function {holder.f_code.co_name}{path}")
        elif isinstance(holder, types.TracebackType):
            found.append(f"a traceback{path}")
        elif isinstance(holder, dict):
            _describe_dict(holder, thing, path, found)
        elif isinstance(holder, list | tuple | set | types.CellType) and depth:
            _describe_holders(holder, depth - 1, f", in a {type(holder).__name__}{path}", found,
                              ignore | {id(thing)})


def _describe_dict(holder: dict, thing: object, path: str, found: list[str]) -> None:
    shell = _shell()
    keys = [key for key, value in holder.items() if value is thing]
    for key in keys:
        if shell is not None and holder is shell.user_ns.get("_oh"):
            found.append(f"Out[{key}]{path}")
        elif shell is not None and holder is shell.user_ns:
            found.append(f"the notebook's name {key}{path}")
        elif holder is vars(sys):
            found.append(f"sys.{key}{path}")
        else:
            found.append(f"an attribute or item {key!r}{path}")


def _trim_heap() -> None:
    """glibc keeps freed memory for itself; ask it to give it back (Linux only)."""
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


def peak_memory() -> float:
    """The most memory this process has held so far, in MB; 0 where the system does not say."""
    if os.name == "nt":
        return psutil.Process().memory_info().peak_wset / MEGABYTE
    import resource
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / MEGABYTE
