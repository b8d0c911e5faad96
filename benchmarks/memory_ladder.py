"""The memory of a training step, rung by rung, predicted and then measured; and what LoRA is worth.

    python benchmarks/memory_ladder.py --scale real --output benchmarks/memory_ladder.json

Each rung trains the same batch in a process of its own, from encoded images, and keeps the changes
of those before it: everything in float32, activations computed again in backward, weights in
bfloat16, Adafactor for AdamW; LoRA keeps the first two and has AdamW for its float32 adapter.
`predicted` is `vlm_utils.scaling.predict_memory`, computed before the step. `measured` is the most
that the process took in its third step, above what it took with the libraries loaded and no model.

glibc keeps freed tensors of some megabytes in a heap with holes. Here each tensor is mapped by
itself (MALLOC_MMAP_THRESHOLD_), so that what is measured is what the step needs;
`default_allocator` is a full step without that.

Then naive (naive.py), a full step and two with LoRA on a smaller batch (--compared), and their
times in turns. Linux only: the record of a process's memory is set back before the step.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import Accelerator
from common import (
    SCALES,
    Scale,
    add_output,
    as_samples,
    as_table,
    machine,
    make_backbones,
    make_image_processor,
    make_ours,
    make_samples,
    make_tokenizer,
    rounded,
    same_for_everyone,
    say,
)
from workers import Worker

from vlm_utils.architecture import MultiImageVLM
from vlm_utils.collate import collate
from vlm_utils.course.peak import PeakMemory
from vlm_utils.datasets import EncodedSamples, TaskDataset
from vlm_utils.memory import memory_report, trim_heap
from vlm_utils.scaling import add_adapter, predict_memory
from vlm_utils.training import TrainingSettings, make_optimizer, training_step

OWN_MAPPING = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
TASK = "select 3"


@dataclass(frozen=True)
class Rung:
    """One way to train. half: all weights in bfloat16, or with LoRA those that are frozen."""

    checkpointed: bool = False
    half: bool = False
    optimizer: str = "adamw"
    rank: int = 0           # of LoRA; 0: all weights of projector and language model are trained


RUNGS = {
    "full": Rung(),
    "+ checkpointing": Rung(checkpointed=True),
    "+ bfloat16": Rung(checkpointed=True, half=True),
    "+ Adafactor": Rung(checkpointed=True, half=True, optimizer="adafactor"),
    "LoRA": Rung(checkpointed=True, half=True, rank=8),
}
TIMED = {"full": Rung(), "LoRA": Rung(half=True, rank=8), "LoRA, checkpointed": RUNGS["LoRA"]}


# --- in a process of its own ----------------------------------------------------------------------

def measure(turn: Callable[[dict], None], rung: Rung, scale: Scale, samples: int) -> None:
    """First the prediction and the peak of the third step; then, each turn, the seconds of one."""
    accelerator = Accelerator(cpu=True)
    pictures, recipes = make_samples(scale, {TASK: samples}, seed=0)
    before = memory_now()
    model, processor = make_ours(scale, scale.merges[1][0], seed=0)
    batch = make_batch(model, processor, pictures, recipes)
    model = change(model, rung).train()
    predicted = predict_memory(model, batch, rung.optimizer, rung.checkpointed)
    settings = TrainingSettings(steps=1, learning_rate=1e-4, optimizer=rung.optimizer)
    optimizer = accelerator.prepare(make_optimizer(model, settings))

    def step() -> float:
        return training_step(accelerator, model, optimizer, [batch])

    losses = [step(), step()]                   # the optimizer's numbers are there from now on
    found = {"predicted": predicted, "measured": peak_above(before, step), "libraries": before,
             "trained": sum(w.numel() for w in model.parameters() if w.requires_grad),
             "tokens": batch["input_ids"].numel(), "losses": losses}
    turn(found)
    while True:
        started = time.perf_counter()
        step()
        turn({"seconds": time.perf_counter() - started})


def measure_naive(turn: Callable[[dict], None], scale: Scale, samples: int) -> None:
    """The same samples as a naive step takes them: all patches, padded, logits everywhere."""
    import naive
    tokenizer, image_processor = make_tokenizer(), make_image_processor(scale)
    pictures, recipes = make_samples(scale, {TASK: samples}, seed=0)
    before = memory_now()
    model = naive.NaiveVLM(*make_backbones(scale, tokenizer, 0)).train()
    optimizer = naive.make_optimizer(model, 1e-4)
    batch = as_samples(pictures, recipes)

    def step() -> float:
        return naive.train_step(model, optimizer, batch, tokenizer, image_processor)

    step()
    turn({"measured": peak_above(before, step), "libraries": before})


def make_batch(model: MultiImageVLM, processor, pictures, recipes) -> dict[str, torch.Tensor]:
    """The samples as one batch, with features of noise: memory does not depend on them."""
    table, config = as_table(pictures), model.config
    table.image_features = torch.randn(
        len(pictures), config.patches_per_image, config.vision_config.hidden_size).half()
    encoded = EncodedSamples(TaskDataset(table, recipes), processor)
    return collate([encoded[i] for i in range(len(encoded))], processor.pad_token_id)


def change(model: MultiImageVLM, rung: Rung):
    """The model as the rung trains it."""
    if rung.rank:
        model = add_adapter(model, rung.rank, half_base=rung.half)
    elif rung.half:
        model.bfloat16()
    if rung.checkpointed:
        model.activation_checkpointing_enable()
    return model


def memory_now() -> float:
    gc.collect()
    trim_heap()
    return memory_report().process


def peak_above(before: float, action: Callable[[], object]) -> float:
    """MB, the most while something is done, above what there was before."""
    memory_now()
    Path("/proc/self/clear_refs").write_text("5")           # sets the record back
    action()
    memory = PeakMemory()
    memory.sample()
    return memory.highest - before


# --- the table ------------------------------------------------------------------------------------

def main() -> None:
    options = parse()
    same_for_everyone()
    scale, rows = SCALES[options.scale], []
    for name, rung in RUNGS.items():
        found = alone(measure, rung, scale, options.samples)
        error = found["predicted"]["peak"] / found["measured"] - 1
        rows.append({"rung": name, **found, "error": error})
        say(f"{name:16} predicted {found['predicted']['peak']:6.0f} MB, measured "
            f"{found['measured']:6.0f} MB ({error:+.1%})")
    few = options.compared
    extra = {"naive": alone(measure_naive, scale, few),
             **{name: alone(measure, rung, scale, few) for name, rung in TIMED.items()},
             "default_allocator": alone(measure, RUNGS["full"], scale, few, environment={})}
    for name, found in extra.items():
        say(f"{few} samples: {name:20} measured {found['measured']:6.0f} MB")
    seconds = take_turns(scale, few, options.rounds)
    result = json.dumps(rounded({
        "benchmark": "memory_ladder", "settings": {
            name: value for name, value in vars(options).items() if name != "output"},
        "rows": rows, "compared": extra, "seconds": seconds,
        "ratios": ratios(rows, extra, seconds),
        "machine": machine("cpu")}))
    if options.output:
        options.output.write_text(result + "\n")
    print(result)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", choices=SCALES, default="tiny")
    parser.add_argument("--samples", type=int, default=8, help="of the batch (default: 8)")
    parser.add_argument("--compared", type=int, default=2,
                        help="samples of the batch of naive, full and LoRA (default: 2)")
    parser.add_argument("--rounds", type=int, default=5, help="timed steps of each (default: 5)")
    add_output(parser)
    options = parser.parse_args()
    if not Path("/proc/self/clear_refs").exists():
        parser.error("this needs Linux: elsewhere the record of memory cannot be set back")
    return options


def alone(work: Callable, *arguments, environment: dict[str, str] = OWN_MAPPING) -> dict:
    """The first result of a worker that is started with these variables."""
    worker = start(work, *arguments, environment=environment)
    try:
        return worker.next()
    finally:
        worker.stop()


def start(work: Callable, *arguments, environment: dict[str, str]) -> Worker:
    before = dict(os.environ)
    os.environ.update(environment)
    try:
        return Worker(work, *arguments)
    finally:
        os.environ.clear()
        os.environ.update(before)


def take_turns(scale: Scale, samples: int, rounds: int) -> dict[str, list[float]]:
    """Seconds of each step, the rungs in turns: what slows the machine down slows all of them."""
    workers = {name: start(measure, rung, scale, samples, environment={})
               for name, rung in TIMED.items()}
    seconds: dict[str, list[float]] = {name: [] for name in workers}
    try:
        for worker in workers.values():
            worker.next()
        for _ in range(rounds):
            for name, worker in workers.items():
                seconds[name].append(worker.next()["seconds"])
        say(f"seconds of a step: {seconds}")
    finally:
        for worker in workers.values():
            worker.stop()
    return seconds


def ratios(rows: list[dict], extra: dict, seconds: dict[str, list[float]]) -> dict[str, float]:
    """What LoRA is worth. With the libraries: all that a process takes."""
    peak = {name: found["measured"] for name, found in extra.items()}
    whole = {name: found["measured"] + found["libraries"] for name, found in extra.items()}
    median = {name: statistics.median(values) for name, values in seconds.items()}
    found = {"largest_error": max(abs(row["error"]) for row in rows)}
    for name in ("LoRA", "LoRA, checkpointed"):
        key = name.lower().replace(", ", "_")
        for other in ("full", "naive"):
            found[f"{key}_memory_over_{other}"] = peak[name] / peak[other]
            found[f"{key}_memory_over_{other}_with_libraries"] = whole[name] / whole[other]
        found[f"{key}_speed_over_full"] = median["full"] / median[name]
    return found


if __name__ == "__main__":
    main()
