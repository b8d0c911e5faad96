"""Several processes: started, compared, and asked together (torchrun, gloo or NCCL)."""

from __future__ import annotations

import inspect
import json
import os
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import pandas as pd
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor

from vlm_utils.architecture import MultiImageProcessor, MultiImageVLM
from vlm_utils.datasets import TaskDataset
from vlm_utils.evaluation import grade, predict, summarise
from vlm_utils.profiles import REPOSITORY

# What `together` appends to the source of a function: one process's part of the work.
_LAST_LINES = '''

if __name__ == "__main__":
    import json, os, sys
    from pathlib import Path
    import torch
    result = {name}(**json.loads(sys.argv[2]))
    (Path(sys.argv[1]) / os.environ["RANK"]).write_text(json.dumps(result))
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
'''


def launch_command(processes: int) -> list[str]:
    """torchrun for so many processes on this machine, on a free port."""
    return [sys.executable, "-m", "torch.distributed.run", "--standalone",
            "--nproc-per-node", str(processes)]


def launch_environment(processes: int) -> dict[str, str]:
    """This program's environment, for processes that share the machine.

    Each has its share of the cores: more threads than cores would wait for each other. On Linux
    they talk over the loopback, whatever the machine's network and name are.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    paths = [str(REPOSITORY), os.environ.get("PYTHONPATH", "")]
    found = {"OMP_NUM_THREADS": str(max(1, cores // processes)), "TQDM_DISABLE": "1"} | os.environ
    found["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    if sys.platform == "linux":
        found.setdefault("GLOO_SOCKET_IFNAME", "lo")
    return found


def together(function: Callable, processes: int = 2, **arguments) -> list:
    """Call a function in several new processes that can form one training; what each returned.

    The function travels as source: its imports stand inside it, its arguments and what it returns
    are what json can hold. Raises RuntimeError with the last words of the process that failed.
    """
    source = textwrap.dedent(inspect.getsource(function))
    with tempfile.TemporaryDirectory() as place:
        script = Path(place) / "work.py"
        script.write_text(source + _LAST_LINES.format(name=function.__name__), encoding="utf-8")
        done = subprocess.run(
            [*launch_command(processes), str(script), place, json.dumps(arguments)],
            env=launch_environment(processes), capture_output=True, text=True)
        print(done.stdout, end="")
        if done.returncode:
            raise RuntimeError(f"{function.__name__} failed in {processes} processes:\n"
                               + _last_error(done.stderr))
        return [json.loads((Path(place) / str(rank)).read_text()) for rank in range(processes)]


def same_everywhere(accelerator: Accelerator, tensors: Iterable[Tensor]) -> bool:
    """Are these tensors equal to the bit in all processes?"""
    different = torch.zeros(1, device=accelerator.device)
    for tensor in tensors:
        first = tensor.detach().clone()
        if accelerator.num_processes > 1:
            torch.distributed.broadcast(first, src=0)
        different += not torch.equal(first, tensor.detach())
    return not accelerator.reduce(different, "sum").item()


def predict_together(accelerator: Accelerator, model: MultiImageVLM,
                     processor: MultiImageProcessor, dataset: TaskDataset,
                     **options) -> pd.DataFrame:
    """predict, each process with its share of the samples: the whole table, in order, in all.

    Nothing is padded to make the shares equal, so each sample is answered once: 13 samples on 2
    processes are 7 and 6. options: those of predict. model: whole in each process.
    """
    rank, processes = accelerator.process_index, accelerator.num_processes
    mine = replace(dataset, recipes=dataset.recipes[rank::processes])
    predictions = predict(model, processor, mine, **options)
    rows = [(rank + i * processes, row) for i, row in enumerate(predictions.to_dict("records"))]
    rows = sorted(gather_object(rows), key=lambda row: row[0])
    return pd.DataFrame([row for _, row in rows], columns=predictions.columns)


def evaluate_together(accelerator: Accelerator, model: MultiImageVLM,
                      processor: MultiImageProcessor, dataset: TaskDataset,
                      **options) -> pd.DataFrame:
    """evaluate, the samples shared out: the same table in all processes."""
    return summarise(grade(predict_together(accelerator, model, processor, dataset, **options)))


def _last_error(said: str) -> str:
    """Of what processes wrote: the first traceback that tells of more than that others are gone."""
    tracebacks = said.split("Traceback (most recent call last):")[1:]
    own = [text for text in tracebacks
           if "ChildFailedError" not in text and "by peer" not in text]
    return (own[0] if own else said)[-3000:].strip()
