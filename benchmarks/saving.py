"""What a checkpoint costs: its size, the seconds of a save, and which share of them is safety.

    python benchmarks/saving.py --scale real

A model after one step of AdamW is saved into a folder that holds the checkpoint before, as in a
training: as the course saves it; without bringing it to the disk; and without checksums. The three
take turns. Prints a table in Markdown.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import tempfile
import time
from pathlib import Path
from unittest.mock import patch

import pandas as pd
import torch
from common import SCALES, as_table, make_ours, make_samples, same_for_everyone

from vlm_utils.datasets import TaskDataset
from vlm_utils.loading import load_checkpoint
from vlm_utils.sources import folders
from vlm_utils.sources.checkpoints import find_checkpoints
from vlm_utils.training import TrainingRun, TrainingSettings, save_checkpoint, start_run, train

VARIANTS = {
    "as the course saves": [],
    "without fsync": [("_sync", lambda path: None)],
    "without checksums": [("_measure", lambda path: {"bytes": path.stat().st_size})],
}


def make_run(scale: str) -> TrainingRun:
    """A run after its first step, so that the optimizer has its state."""
    scale = SCALES[scale]
    model, processor = make_ours(scale, scale.merges[1][0], seed=0)
    model.to("cpu")
    pictures, recipes = make_samples(scale, {"select 2": 4}, seed=0)
    run = start_run(model, processor, TaskDataset(as_table(pictures), recipes),
                    TrainingSettings(steps=2, batch_size=2, warmup_steps=0))

    def stop(row):
        raise KeyboardInterrupt

    with contextlib.redirect_stdout(None):
        train(run, on_step=stop)
    return run


def seconds_of(action) -> float:
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scale", choices=SCALES, default="tiny")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    same_for_everyone()
    torch.manual_seed(0)
    run = make_run(options.scale)
    with tempfile.TemporaryDirectory(dir=Path.cwd(), ignore_cleanup_errors=True) as place:
        folder = Path(place) / "run"
        save_checkpoint(folder, run)                # the first also sets things up
        seconds = {name: [] for name in VARIANTS}
        for _ in range(options.rounds):
            for name, replaced in VARIANTS.items():
                with contextlib.ExitStack() as stack:
                    for function, by in replaced:
                        stack.enter_context(patch.object(folders, function, by))
                    seconds[name].append(seconds_of(lambda: save_checkpoint(folder, run)))
        save_checkpoint(folder, run)
        (last, *_) = find_checkpoints(folder)
        size = sum(path.stat().st_size for path in last.path.iterdir())
        checking = seconds_of(last.verify)
        loading = seconds_of(lambda: load_checkpoint(last.path))
    table = pd.DataFrame({"seconds": {name: statistics.median(s) for name, s in seconds.items()}})
    print(f"{options.scale}: {size / 1e6:,.1f} MB a checkpoint, median of {options.rounds} saves; "
          f"comparing it with its marker {checking:.3f} s, loading the model {loading:.3f} s\n")
    for name, row in table.iterrows():
        print(f"| {name} | {row['seconds']:.3f} s |")


if __name__ == "__main__":
    main()
