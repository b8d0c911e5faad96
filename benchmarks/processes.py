"""How much faster are two processes than one? Samples a second, and efficiency.

    python benchmarks/processes.py --scale real --output benchmarks/processes.json

Trains on random features, with the same global batch on 1 process and on 2, of one thread each, in
copies (DDP) and in shards (FSDP2). Efficiency is the time of one process over p times that of p:
1 means that p processes do p times as much. Each variant is started anew in each round, so that
what slows the machine down slows all of them; of each, the median step of all rounds counts.

Time on the clock needs a core for each process: the last line says what share of the cores other
programs had meanwhile. CPU seconds for each sample hardly depend on them; they hold what a process
does in addition because there are several, and not the time for which it waits.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

import psutil
import torch
from accelerate.utils import gather_object
from common import (
    SCALES,
    add_output,
    as_table,
    machine,
    make_ours,
    make_samples,
    same_for_everyone,
    say,
)

from vlm_utils.datasets import TaskDataset
from vlm_utils.scaling import Shards, held_bytes, launch_command, launch_environment
from vlm_utils.training import Copies, TrainingRun, TrainingSettings, start_run, train

LAYOUTS = {"copies": Copies, "shards": Shards}
VARIANTS = ((1, "copies"), (2, "copies"), (2, "shards"))


def make_run(scale: str, batch_size: int, steps: int, layout: str) -> TrainingRun:
    """A training on features that no encoder had to compute, the same one in every process."""
    scale = SCALES[scale]
    tokens, _, merge = scale.merges[1]
    model, processor = make_ours(scale, tokens, seed=0)
    model.to("cpu")
    pictures, recipes = make_samples(scale, {"select 3": 2 * batch_size}, seed=0)
    table = as_table(pictures)
    generator = torch.Generator().manual_seed(0)
    table.image_features = torch.randn(
        len(pictures), tokens * merge**2, scale.vision["hidden_size"], generator=generator).half()
    settings = TrainingSettings(steps=steps, batch_size=batch_size, warmup_steps=0,
                                learning_rate=1e-4)
    return start_run(model, processor, TaskDataset(table, recipes), settings,
                     layout=LAYOUTS[layout]())


def measure(scale: str, batch_size: int, steps: int, layout: str) -> dict:
    """Train in this process, as one of those that were started; what process 0 reports.

    step_seconds: without the first step, which also sets things up. cpu_seconds: of all processes.
    bytes: what this one holds at the end.
    """
    run = make_run(scale, batch_size, steps, layout)
    started = [time.process_time()]

    def on_step(row: dict) -> None:
        if row["step"] == 1:
            started[0] = time.process_time()

    history = train(run, on_step=on_step)
    cpu = time.process_time() - started[0]
    return {"step_seconds": history["seconds"].diff().dropna().tolist(),
            "losses": history["loss"].tolist(), "cpu_seconds": sum(gather_object([cpu])),
            "bytes": held_bytes(run.model, run.optimizer.optimizer)}


def start(options: argparse.Namespace, processes: int, layout: str) -> dict:
    """measure in so many new processes; with the share of the cores that other programs had."""
    before, began = psutil.cpu_times(), time.monotonic()
    done = subprocess.run(
        [*launch_command(processes), str(Path(__file__)), "--worker", layout, "--scale",
         options.scale, "--batch-size", str(options.batch_size), "--steps", str(options.steps)],
        env=launch_environment(processes) | {"OMP_NUM_THREADS": "1"}, capture_output=True,
        text=True)
    if done.returncode:
        raise RuntimeError(done.stderr)
    after, own = psutil.cpu_times(), json.loads(done.stdout.splitlines()[-1])
    busy = sum(getattr(after, kind) - getattr(before, kind) for kind in ("user", "nice", "system"))
    cores = psutil.cpu_count() * (time.monotonic() - began)
    return own | {"others": max(0.0, busy - own["whole_cpu_seconds"]) / cores}


def summarise(found: dict[tuple[int, str], list[dict]], batch_size: int) -> list[dict]:
    """One row for each variant, against one process."""
    rows = []
    for (processes, layout), rounds in found.items():
        step = statistics.median(s for each in rounds for s in each["step_seconds"])
        cpu = statistics.median(each["cpu_seconds"] / len(each["step_seconds"])
                                for each in rounds) / batch_size
        rows.append({"processes": processes, "layout": layout, "step_seconds": step,
                     "samples_per_second": batch_size / step, "cpu_seconds_per_sample": cpu,
                     "held_mb": sum(rounds[0]["bytes"].values()) / 1e6,
                     "others": [each["others"] for each in rounds]})
    one = next(row for row in rows if row["processes"] == 1)
    for row in rows:
        row["efficiency"] = one["step_seconds"] / (row["processes"] * row["step_seconds"])
        row["cpu_efficiency"] = one["cpu_seconds_per_sample"] / row["cpu_seconds_per_sample"]
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scale", choices=SCALES, default="tiny")
    parser.add_argument("--batch-size", type=int, default=8, help="of all processes together")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    add_output(parser)
    parser.add_argument("--worker", choices=LAYOUTS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    same_for_everyone()
    torch.set_num_threads(1)
    if options.worker:
        result = measure(options.scale, options.batch_size, options.steps, options.worker)
        result["whole_cpu_seconds"] = sum(gather_object([time.process_time()]))
        if result and torch.distributed.get_rank() == 0:
            say(json.dumps(result))
        torch.distributed.destroy_process_group()
        return
    found: dict[tuple[int, str], list[dict]] = {variant: [] for variant in VARIANTS}
    for number in range(options.rounds):
        for variant, results in found.items():
            results.append(start(options, *variant))
            last = results[-1]
            say(f"round {number + 1}: {variant[0]} processes, {variant[1]}: "
                f"{statistics.median(last['step_seconds']):.3f} s a step, "
                f"others {last['others']:.0%}")
    result = {"benchmark": "processes", "scale": options.scale, "batch_size": options.batch_size,
              "steps": options.steps, "rows": summarise(found, options.batch_size),
              "machine": machine("cpu")}
    text = json.dumps(result)
    if options.output:
        options.output.write_text(text + "\n")
    say(text)


if __name__ == "__main__":
    sys.exit(main())
