"""A training by two processes, interrupted in one of them: both stop, one writes, two resume.

    python tests/two_processes.py

Prints what it saw as one line of JSON. Needs fork, that is Linux or macOS.
"""

import contextlib
import io
import json
import os
import pickle
import socket
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

os.environ |= {"OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1"}     # threads must not be forked

import torch  # noqa: E402
from accelerate.state import AcceleratorState, PartialState  # noqa: E402
from small_runs import (  # noqa: E402
    SETTINGS,
    interrupt_after,
    losses_of,
    resumed_losses,
    small_dataset,
    small_run,
)
from transformers.utils.logging import disable_progress_bar  # noqa: E402

from vlm_utils.sources import checkpoints  # noqa: E402
from vlm_utils.training import resume_run  # noqa: E402


def main() -> None:
    torch.set_num_threads(1)
    disable_progress_bar()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "run"
        settings = replace(SETTINGS, steps=8)
        whole = together(lambda rank: losses_of(small_run(settings)))
        written = together(lambda rank: count_writes(
            lambda: losses_of(small_run(settings), folder,
                              interrupt_after(5) if rank == 1 else None)))
        refused = in_fork(lambda: resume_run(folder, small_dataset()), place)
        rest = together(lambda rank: resumed_losses(folder))
        print(json.dumps({
            "whole": whole, "stopped after": [len(losses) for losses, _ in written],
            "written by": [count for _, count in written], "alone": refused, "resumed": rest,
            "left": sorted(path.name for path in folder.parent.iterdir() if path.is_dir())}))


def count_writes(function) -> tuple[list[float], int]:
    """What a function returns, and how many checkpoints this process has written meanwhile."""
    original, count = checkpoints.folders.seal, 0

    def counted(*arguments):
        nonlocal count
        count += 1
        original(*arguments)

    checkpoints.folders.seal = counted
    return function(), count


def together(function) -> list:
    """Call function(rank) in two processes that train together; what each returned."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory() as place:
        children = []
        for rank in range(2):
            child = os.fork()
            if not child:
                os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2",
                               "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
                if sys.platform == "linux":
                    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
                run_child(lambda rank=rank: function(rank), Path(place) / str(rank))
            children.append(child)
        for child in children:
            os.waitpid(child, 0)
        return [pickle.loads((Path(place) / str(rank)).read_bytes()) for rank in range(2)]


def in_fork(function, place: str):
    """The error that a function raises in a process of its own, as text; what it returns, else."""
    child = os.fork()
    if not child:
        run_child(function, Path(place) / "alone")
    os.waitpid(child, 0)
    return pickle.loads((Path(place) / "alone").read_bytes())


def run_child(function, path: Path) -> None:
    """In a forked process: write down what a function returns or raises, and end."""
    try:
        PartialState._reset_state()
        AcceleratorState._reset_state()
        with contextlib.redirect_stdout(io.StringIO()):
            found = function()
    except Exception as error:
        found = f"{type(error).__name__}: {error}"
    path.write_bytes(pickle.dumps(found))
    os._exit(0)


if __name__ == "__main__":
    main()
