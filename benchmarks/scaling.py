"""Scaling: time and memory of ours from 1 to 32 images a sample, against the number of tokens.

    python benchmarks/scaling.py --scale real --device cpu

A training step from encoded images, and an answer from PIL images. Times are measured in one
process that alternates between the numbers of images; memory in a process for each number.
"""

from __future__ import annotations

import argparse
import gc
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from accelerate import Accelerator
from common import (
    SCALES,
    Scale,
    alternate,
    arguments_of,
    as_samples,
    make_ours,
    make_samples,
    medians,
    plot_path,
    report,
    say,
)
from PIL import Image
from workers import Worker

from vlm_utils.answering import answer_sample
from vlm_utils.collate import collate
from vlm_utils.datasets import Recipe, Sample, encode_sample
from vlm_utils.plots import BLUE, GREY, ORANGE, new_figure
from vlm_utils.training import TrainingSettings, make_optimizer, training_step

NUMBERS = (1, 2, 4, 8, 16, 32)
NEW_TOKENS = 8


class Bench:
    """The course's model with names for 32 images, a training step and an answer."""

    def __init__(self, scale: Scale, device: str, seed: int):
        tokens = scale.merges[1][0]
        model, self.processor = make_ours(scale, tokens, seed, max_images=max(NUMBERS))
        self.model, self.device = model.to(device), device
        self.accelerator = Accelerator(mixed_precision="bf16" if device == "cuda" else "no",
                                       cpu=device == "cpu")
        self.optimizer = self.accelerator.prepare(
            make_optimizer(model, TrainingSettings(steps=1, learning_rate=1e-4)))

    def encode(self, sample: Sample) -> dict[str, torch.Tensor]:
        """A batch of one sample, its images encoded, as training reads it."""
        pixels = self.processor.pixel_values(sample.images).to(self.device)
        with torch.inference_mode():
            features = self.model.encode_images(pixels).half().cpu()
        sample = replace(sample, images=[], image_features=features.clone())
        return collate([encode_sample(sample, self.processor)], self.processor.pad_token_id)

    def step(self, batch: dict[str, torch.Tensor]) -> None:
        """One optimizer step, as `train` does it."""
        self.model.train()
        batch = {name: values.to(self.device) for name, values in batch.items()}
        training_step(self.accelerator, self.model, self.optimizer, [batch])

    def answer(self, sample: Sample) -> None:
        answer_sample(self.model, self.processor, sample, NEW_TOKENS, min_new_tokens=NEW_TOKENS)


def measure_memory(turn: Callable[[dict], None], scale: Scale, device: str, seed: int,
                   pictures: list[Image.Image], recipe: Recipe) -> None:
    """In a process of its own: the peak after an answer, then after two training steps."""
    bench = Bench(scale, device, seed)
    sample, = as_samples(pictures, [recipe])
    bench.answer(sample)
    turn({})
    batch = bench.encode(sample)
    bench.step(batch)       # the optimizer's state is there from the second step on
    bench.step(batch)
    turn({})


def main() -> None:
    arguments = arguments_of(
        __doc__.splitlines()[0],
        rounds=(3, "how often each is measured"),
        most=(max(NUMBERS), "the most images a sample that are measured"))
    numbers = [n for n in NUMBERS if n <= arguments.most]
    scale = SCALES[arguments.scale]
    plot = plot_path("scaling", scale.name, arguments.device)
    pictures, recipes = make_samples(scale, {f"refer {n}": 1 for n in numbers}, arguments.seed)
    recipes = sorted(recipes, key=lambda recipe: len(recipe.rows))
    tokens, seconds = _measure_time(arguments, scale, pictures, recipes)
    gc.collect()        # from here on the memory of others is measured
    memory: dict[str, float] = {}
    for n, recipe in zip(numbers, recipes, strict=True):
        worker = Worker(measure_memory, scale, arguments.device, arguments.seed, pictures, recipe)
        try:
            memory |= {f"answer {n}": worker.next()["peak_mb"],
                       f"step {n}": worker.next()["peak_mb"]}
        finally:
            worker.stop()
        say(f"{n} images: {memory[f'answer {n}']:.0f} MB to answer, "
            f"{memory[f'step {n}']:.0f} MB to train")
    _report(arguments, numbers, tokens, seconds, memory, plot)


def _measure_time(arguments: argparse.Namespace, scale: Scale, pictures: list[Image.Image],
                  recipes: list[Recipe]) -> tuple[list[int], dict[str, list[float]]]:
    """Tokens of each sample; seconds of a step and an answer with each, all of them in turns."""
    bench = Bench(scale, arguments.device, arguments.seed)
    samples = as_samples(pictures, recipes)
    batches = [bench.encode(sample) for sample in samples]
    tokens = [batch["input_ids"].shape[1] for batch in batches]
    say(f"images a sample: {[len(r.rows) for r in recipes]}, tokens: {tokens}")
    bench.step(batches[0])
    bench.answer(samples[0])
    actions = {}
    for sample, batch in zip(samples, batches, strict=True):
        actions[f"step {len(sample.images)}"] = lambda b=batch: bench.step(b)
        actions[f"answer {len(sample.images)}"] = lambda s=sample: bench.answer(s)
    return tokens, alternate(actions, arguments.rounds, arguments.device)


def growth(tokens: list[int], values: list[float]) -> float:
    """How much a value grew, by how much the tokens did: 1 or less is at most linear."""
    return (values[-1] / values[0]) / (tokens[-1] / tokens[0])


def steepening(tokens: list[int], values: list[float]) -> float:
    """What one more token costs in the upper half (8 to 32 images), over the lower (1 to 8).

    1 is a straight line, wherever it starts; a parabola has more than 4. NaN for two points.
    """
    middle = len(values) // 2
    if middle == len(values) - 1:
        return math.nan
    late = (values[-1] - values[middle]) / (tokens[-1] - tokens[middle])
    early = (values[middle] - values[0]) / (tokens[middle] - tokens[0])
    return late / early if early > 0 else math.nan


def _report(arguments: argparse.Namespace, numbers: list[int], tokens: list[int],
            seconds: dict[str, list[float]], memory: dict[str, float], plot: Path) -> None:
    median = medians(seconds)
    series = {f"{what} {kind}": [values[f"{what} {n}"] for n in numbers]
              for what in ("step", "answer")
              for kind, values in (("seconds", median), ("memory", memory))}
    ratios = {}
    for name, values in series.items():
        key = name.replace(" ", "_")
        ratios[f"{key}_growth_over_tokens_growth"] = growth(tokens, values)
        late = steepening(tokens, values)
        ratios[f"{key}_late_over_early_cost_of_a_token"] = late if math.isfinite(late) else None
    _draw(numbers, tokens, series).savefig(plot, dpi=110)
    report("scaling", arguments, ratios, plot, images=numbers, tokens=tokens,
           median=series, seconds=seconds)


def _draw(numbers: list[int], tokens: list[int], series: dict[str, list[float]]):
    """Both quantities over tokens; grey: the first point grown as the tokens grew."""
    figure = new_figure(9, 3.2)
    axes = figure.subplots(1, 2)
    for axis, kind, label in zip(axes, ("seconds", "memory"), ("seconds", "peak MB"),
                                 strict=True):
        for what, colour, marker in (("step", BLUE, "o"), ("answer", ORANGE, "s")):
            values = series[f"{what} {kind}"]
            axis.plot(tokens, values, color=colour, marker=marker, markersize=4,
                      label={"step": "training step", "answer": "answer"}[what])
            axis.plot(tokens, [values[0] * t / tokens[0] for t in tokens], color=GREY,
                      linestyle=":", linewidth=1,
                      label="linear in tokens" if what == "answer" else None)
        axis.set(xscale="log", yscale="log", xlabel="tokens of a sample", ylabel=label)
        axis.spines[["top", "right"]].set_visible(False)
        axis.legend(fontsize=8, frameon=False)
    for n, *point in zip(numbers, tokens, series["step seconds"], strict=True):
        axes[0].annotate(str(n), point, fontsize=7, xytext=(0, 5), textcoords="offset points",
                         ha="center")
    axes[0].set_title("numbers at the points: images a sample", fontsize=8, loc="left")
    return figure


if __name__ == "__main__":
    main()
