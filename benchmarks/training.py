"""Training: samples a second and peak memory of naive, library and ours, from PIL images on.

    python benchmarks/training.py --scale real --device cpu

Each variant lives in a process of its own and trains on the same samples; those that are compared
take turns, one pass over the samples each. `ours` is `vlm_utils.training.train`, as lesson 04
calls it.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from common import (
    SCALES,
    PooledFeatures,
    Scale,
    arguments_of,
    as_samples,
    as_table,
    make_backbones,
    make_image_processor,
    make_ours,
    make_samples,
    make_tokenizer,
    matmul_speed,
    plot_path,
    report,
    say,
    synchronize,
)
from PIL import Image
from workers import Worker

from vlm_utils.architecture import IGNORED, MultiImageProcessor, MultiImageVLM
from vlm_utils.datasets import EncodedSamples, Recipe, TaskDataset
from vlm_utils.plots import BLUE, GREY, ORANGE, new_figure
from vlm_utils.training import TrainingSettings, start_run, train

BATCH_SIZE = 4
MIXTURE = {"select 2": 2, "compare 2": 2, "select 3": 2, "sequence 3": 2}
LEARNING_RATES = {"adamw": 3e-4, "adafactor": 1e-2}


@dataclass(frozen=True)
class Job:
    """What every variant is given: shapes, samples, how many passes over them will be asked."""

    scale: Scale
    device: str
    seed: int
    pictures: list[Image.Image]
    recipes: list[Recipe]
    passes: int

    def batches(self) -> list[list]:
        """The samples in batches, in the order in which they were drawn."""
        samples = as_samples(self.pictures, self.recipes)
        return [samples[i:i + BATCH_SIZE] for i in range(0, len(samples), BATCH_SIZE)]


# --- the variants, each in its own process -----------------------------------------------------

def train_naive(turn: Callable[[dict], None], job: Job) -> None:
    import naive
    tokenizer, image_processor = make_tokenizer(), make_image_processor(job.scale)
    model = naive.NaiveVLM(*make_backbones(job.scale, tokenizer, job.seed)).to(job.device).train()
    optimizer = naive.make_optimizer(model, LEARNING_RATES["adamw"])
    _take_turns(turn, job, lambda samples: naive.train_step(
        model, optimizer, samples, tokenizer, image_processor))


def train_library(turn: Callable[[dict], None], job: Job) -> None:
    import library
    tokenizer = make_tokenizer()
    processor = library.make_processor(
        tokenizer, make_image_processor(job.scale), job.scale.vision["patch_size"])
    backbones = make_backbones(job.scale, tokenizer, job.seed)
    model = library.make_llava(*backbones, tokenizer).to(job.device).train()
    optimizer = library.make_optimizer(model, LEARNING_RATES["adamw"])
    _take_turns(turn, job, lambda samples: library.train_step(
        model, optimizer, samples, processor))


def _take_turns(turn: Callable[[dict], None], job: Job, step: Callable[[list], float]) -> None:
    """One pass a turn, after a step with a single sample to warm up."""
    batches = job.batches()
    step(batches[0][:1])
    turn({})
    while True:
        synchronize(job.device)
        started = time.perf_counter()
        losses = [step(samples) for samples in batches]
        synchronize(job.device)
        turn({"seconds": time.perf_counter() - started, "loss": statistics.mean(losses)})


def train_ours(turn: Callable[[dict], None], job: Job, tokens: int, batch_size: int,
               checkpointed: bool = False, optimizer: str = "adamw") -> None:
    """Lesson 04: encode once, then train on features; the first pass warms up.

    checkpointed: compute activations again in backward instead of keeping them.
    """
    model, processor = make_ours(job.scale, tokens, job.seed)
    model.to(job.device)
    if checkpointed:
        model.gradient_checkpointing_enable()
    # A folder of its own for each variant: no features may be found that another one computed.
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        os.environ["VLM_OUTPUT"] = folder
        dataset, encoding = _encode(job, model, processor, tokens)
        dataset.recipes *= -(-batch_size // len(dataset))     # enough for one large batch
        samples = EncodedSamples(dataset, processor)
        steps = len(dataset) // batch_size
        settings = TrainingSettings(
            steps=steps * (job.passes + 1), batch_size=batch_size, optimizer=optimizer,
            learning_rate=LEARNING_RATES[optimizer], warmup_steps=0,
            precision="bf16" if job.device == "cuda" else "no", seed=job.seed)
        facts = {"encoding_seconds": encoding, "flops": useful_flops(job.scale, samples),
                 "samples": len(dataset)}
        losses: list[float] = []
        started = time.perf_counter()

        def after_step(row: dict) -> None:
            nonlocal started
            losses.append(row["loss"])
            if row["step"] % steps == 0:
                synchronize(job.device)
                turn(facts | {"seconds": time.perf_counter() - started,
                              "loss": statistics.mean(losses[-steps:])})
                started = time.perf_counter()

        # train's own progress bar would run through the lines of the benchmark
        with contextlib.redirect_stderr(io.StringIO()):
            train(start_run(model, processor, samples, settings), on_step=after_step)


def _encode(job: Job, model: MultiImageVLM, processor: MultiImageProcessor,
            tokens: int) -> tuple[TaskDataset, float]:
    """The samples with their images encoded, and the seconds that encoding took."""
    from vlm_utils.training import encode_table
    model.encode_images(processor.pixel_values(job.pictures[:1]).to(job.device))    # warms up
    dataset = TaskDataset(as_table(job.pictures), list(job.recipes))
    synchronize(job.device)
    started = time.perf_counter()
    features = encode_table(dataset.table, model, processor)
    pooled_side, _ = job.scale.merging(tokens)
    if pooled_side is not None:
        features = PooledFeatures(features, pooled_side)
    dataset.table.image_features = features
    return dataset, time.perf_counter() - started


def useful_flops(scale: Scale, samples) -> float:
    """Operations of one pass that training cannot do without: no padding, no masked attention.

    Twice forward is backward (Kaplan et al. 2020). The output layer counts for answers only.
    """
    text = scale.text
    width, layers = text["hidden_size"], text["num_hidden_layers"]
    shared = text["num_key_value_heads"] / text["num_attention_heads"]
    block = width * width * (2 + 2 * shared) + 3 * width * text["intermediate_size"]
    lengths = np.array(samples.lengths)
    answered = sum(label != IGNORED for row in samples.texts for label in row["labels"])
    forward = 2 * (layers * block * lengths.sum() + width * text["vocab_size"] * answered)
    attention = 2 * layers * width * (lengths**2).sum()             # half of it is masked
    return float(3 * (forward + attention))


# --- the comparison ----------------------------------------------------------------------------

def main() -> None:
    cuda = torch.cuda.is_available()
    arguments = arguments_of(
        __doc__.splitlines()[0],
        passes=(3, "timed passes over the samples"),
        minutes=(9, "no third or further pass that would end later"),
        large_batch=(64 if cuda else 0, "ours also with batches of so many samples, 0 for not"),
        peak_tflops=(0, "what the maker of the chip promises, for MFU; 0: not known"))
    scale = SCALES[arguments.scale]
    plot = plot_path("training", scale.name, arguments.device)
    pictures, recipes = make_samples(scale, MIXTURE, arguments.seed)
    job = Job(scale, arguments.device, arguments.seed, pictures, recipes, arguments.passes)
    fastest = matmul_speed(arguments.device)
    say(f"{len(recipes)} samples of 2 and 3 images, {len(pictures)} pictures; "
        f"a large matrix product reaches {fastest:.3f} TFLOP/s")
    started, results = time.perf_counter(), {}
    # The naive group takes most of the time.
    for group, share in zip(_groups(job, arguments.large_batch), (0.65, 1.0), strict=True):
        deadline = started + 60 * arguments.minutes * share
        results |= _alternate(group, arguments.passes, deadline)
    _report(arguments, job, results, fastest, plot)


def _groups(job: Job, large_batch: int) -> list[dict[str, tuple]]:
    """Variants by name: those that are compared with each other take turns in one group.

    Two groups, not one: all variants at once, with their optimizers, would need 25 GB.
    """
    every, default, few = (merge[0] for merge in job.scale.merges)
    against_naive = {
        "naive": (train_naive, job),
        f"ours {default}": (train_ours, job, default, BATCH_SIZE),
        f"ours {default}, checkpointed": (train_ours, job, default, BATCH_SIZE, True),
        f"ours {default}, checkpointed, adafactor": (
            train_ours, job, default, BATCH_SIZE, True, "adafactor"),
        f"ours {few}": (train_ours, job, few, BATCH_SIZE)}
    if large_batch:
        against_naive[f"ours {default}, batch {large_batch}"] = (
            train_ours, job, default, large_batch)
    against_library = {"library": (train_library, job),
                       f"ours {every}": (train_ours, job, every, BATCH_SIZE)}
    return [against_naive, against_library]


def _alternate(variants: dict[str, tuple], passes: int, deadline: float) -> dict[str, list[dict]]:
    """First the warm-up of each, then the passes, in turns; at least two, for losses to fall.

    deadline: by time.perf_counter; no third or further pass that would end later.
    """
    workers: dict[str, Worker] = {}
    results: dict[str, list[dict]] = {}
    try:
        for name, (work, *values) in variants.items():
            workers[name] = Worker(work, *values)
            results[name] = [workers[name].next()]
            say(f"{name} is warm, {results[name][0]['peak_mb']:.0f} MB")
        for number in range(1, passes + 1):
            round_started = time.perf_counter()
            for name, worker in workers.items():
                results[name].append(worker.next())
                last = results[name][-1]
                say(f"pass {number} of {passes}: {name} {last['seconds']:.2f} s, "
                    f"loss {last['loss']:.3f}, peak {last['peak_mb']:.0f} MB")
            now = time.perf_counter()
            if 2 <= number < passes and now + (now - round_started) > deadline:
                say(f"no pass {number + 1}: it would take longer than --minutes")
                break
    finally:
        for worker in workers.values():
            worker.stop()
    return results


def _report(arguments: argparse.Namespace, job: Job, results: dict[str, list[dict]],
            fastest: float, plot: Path) -> None:
    every, default, few = (merge[0] for merge in job.scale.merges)
    count = len(job.recipes)
    seconds = {name: statistics.median(row["seconds"] for row in rows[1:])
               for name, rows in results.items()}
    speed = {name: rows[-1].get("samples", count) / seconds[name]  # a large batch has copies
             for name, rows in results.items()}
    peak = {name: rows[-1]["peak_mb"] for name, rows in results.items()}
    first = {name: rows[0] for name, rows in results.items() if "flops" in rows[0]}
    once = {name: row["encoding_seconds"] for name, row in first.items()}
    reached = {name: row["flops"] / seconds[name] / 1e12 for name, row in first.items()}
    pixels, ours = f"ours {every}", f"ours {default}"
    ratios = {
        f"speed_{default}_tokens_over_naive": speed[ours] / speed["naive"],
        f"speed_{few}_tokens_over_naive": speed[f"ours {few}"] / speed["naive"],
        f"speed_over_library_both_{every}_tokens": speed[pixels] / speed["library"],
        # Each picture encoded for this one pass alone: the worst case for features kept.
        f"speed_{default}_tokens_over_naive_first_pass":
            count / (seconds[ours] + once[ours]) / speed["naive"],
        f"speed_over_library_both_{every}_tokens_first_pass":
            count / (seconds[pixels] + once[pixels]) / speed["library"],
        **{f"peak_memory_of_naive_{tokens}_tokens": peak[f"ours {tokens}"] / peak["naive"]
           for tokens in (every, default, few)},
    }
    for name in results:                # checkpointed, with Adafactor, and the large batch
        if "," in name:
            key = name.removeprefix("ours ").replace(", ", "_tokens_", 1)
            key = key.replace(", ", "_").replace(" ", "_")
            ratios[f"speed_{key}_over_naive"] = speed[name] / speed["naive"]
            ratios[f"peak_memory_of_naive_{key}"] = peak[name] / peak["naive"]
    _draw(speed, peak).savefig(plot, dpi=110)
    each = {key: {name: [row[key] for row in rows[1:]] for name, rows in results.items()}
            for key in ("seconds", "loss")}
    report("training", arguments, ratios, plot,
           seconds_per_pass=each["seconds"], losses=each["loss"],
           samples_per_second=speed, peak_mb=peak,
           encoding_seconds_once=once, pictures=len(job.pictures), samples=count,
           batch_size=BATCH_SIZE, useful_tflops_per_second=reached,
           matrix_product_tflops_per_second=fastest,
           share_of_matrix_product={name: value / fastest for name, value in reached.items()},
           mfu={name: value / arguments.peak_tflops for name, value in reached.items()}
           if arguments.peak_tflops else None)


def _draw(speed: dict[str, float], peak: dict[str, float]):
    """Samples a second and peak memory of each variant, side by side."""
    figure = new_figure(9, 3)
    left, right = figure.subplots(1, 2, sharey=True)
    colours = [{"naive": GREY, "library": ORANGE}.get(name, BLUE) for name in speed]
    for axis, values, label in ((left, speed, "samples a second"), (right, peak, "peak MB")):
        bars = axis.barh(list(values), list(values.values()), color=colours)
        axis.bar_label(bars, fmt="{:,.4g}", padding=3, fontsize=8)
        axis.set_xlabel(label)
        axis.margins(x=0.2)
        axis.spines[["top", "right"]].set_visible(False)
    left.invert_yaxis()
    return figure


if __name__ == "__main__":
    main()
