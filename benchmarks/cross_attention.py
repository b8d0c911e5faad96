"""Images beside the sequence: what does each part of lesson 08's model do, and how well does it do?

    python benchmarks/cross_attention.py --seeds 3                  every comparison
    python benchmarks/cross_attention.py --only start,mask          some of them

start      as the lesson starts; with the gates at zero; with blocks of random weights instead of a
           copy of each layer's self-attention; with a new resampler instead of the base's projector
mask       text sees all images before it ("preceding"), or the last one only ("immediate")
text       the language model's own weights are trained too, or frozen
layers     blocks in all layers but the first, in all, or in the last alone
block      cross-attention only, or with a gated feed-forward part, as Flamingo's
latents    a resampler with 1, 4 or 16 latents an image
order      with an embedding of each image's number, or without

Each arm starts from the base model in data/ and trains on lesson 08's mixture, with fewer steps.
`long` is no comparison: the lesson's own model at its full length, for as many seeds; it is left
out unless it is named. Questions, intervals and `differs` are those of ablations.py.
The last line is JSON, which --output also writes to a file, after each run.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass

import pandas as pd
from ablations import differing_arms, parse_options
from common import machine, same_for_everyone, say
from learning import KEY, over_seeds, test_questions

from vlm_utils.cross_attention import add_cross_attention, gates
from vlm_utils.datasets import add_orientations, build_tasks, load_image_table
from vlm_utils.evaluation import evaluate
from vlm_utils.loading import load_base_model
from vlm_utils.making.cross_model import MIXTURE, STEPS
from vlm_utils.profiles import get_device, get_profile
from vlm_utils.training import TrainingSettings, encode_table, start_run, train

TASKS = ("select 3", "compare 2", "sequence 4", "refer 3")


@dataclass(frozen=True)
class Setup:
    """What one arm changes; the defaults are the lesson's. See add_cross_attention."""

    layers: tuple[int, ...] | None = None
    initial_gate: float = 0.5
    copy_attention: bool = True
    gated_feed_forward: bool = False
    image_mask: str = "preceding"
    latents: int | None = None
    image_order: bool = True
    frozen: bool = False        # the language model's own weights, not those of its blocks
    long: bool = False          # as many steps as the lesson's model


COMPARISONS: dict[str, dict[str, Setup]] = {
    "start": {"the lesson's": Setup(), "gates at zero": Setup(initial_gate=0.0),
              "random blocks": Setup(copy_attention=False), "new resampler": Setup(latents=4)},
    "mask": {"preceding": Setup(), "immediate": Setup(image_mask="immediate")},
    "text": {"trained": Setup(), "frozen": Setup(frozen=True)},
    "layers": {"2 and 3": Setup(), "1 to 3": Setup(layers=(0, 1, 2)), "3": Setup(layers=(2,))},
    "block": {"attention": Setup(), "with feed-forward": Setup(gated_feed_forward=True)},
    "latents": {"1": Setup(latents=1), "4": Setup(latents=4), "16": Setup(latents=16)},
    "order": {"with": Setup(), "without": Setup(image_order=False)},
    "long": {"preceding": Setup(long=True)},
}


def train_and_measure(setup: Setup, seed: int, steps: int, samples: int) -> pd.DataFrame:
    """One training and its accuracy for each task, with its seconds and its gates."""
    profile = get_profile("tiny")
    changed = {name: value for name, value in vars(setup).items() if name not in ("frozen", "long")}
    model, processor = add_cross_attention(*load_base_model(profile), seed=seed, **changed)
    if setup.frozen:
        freeze_language_model(model)
    table = add_orientations(load_image_table(profile, "train"), profile.orientations)
    table.image_features = encode_table(table, model, processor)
    settings = TrainingSettings.of(profile, steps=STEPS if setup.long else steps, seed=seed)
    share = min(1, settings.steps * settings.batch_size / sum(MIXTURE.values()) + 0.01)
    mixture = {name: round(share * count) for name, count in MIXTURE.items()}
    run = start_run(model, processor, build_tasks(table, mixture, seed=seed), settings)
    history = train(run)
    questions = test_questions(TASKS, samples, model, processor)
    measured = evaluate(model, processor, questions)[[*KEY, "samples", "accuracy"]]
    return measured.assign(seed=seed, seconds=float(history["seconds"].iloc[-1]),
                           gates=json.dumps(gates(model)))


def freeze_language_model(model) -> None:
    """All but its cross-attention blocks."""
    for name, weight in model.language_model.named_parameters():
        weight.requires_grad_("cross_attention" in name)


def tabulate(results: dict[Setup, list[pd.DataFrame]], chosen: list[str]) -> pd.DataFrame:
    """One row for each comparison, arm, task and number of images, over the seeds that are done."""
    parts = []
    for comparison in chosen:
        for arm, setup in COMPARISONS[comparison].items():
            if results[setup]:
                part = over_seeds([each.drop(columns=["gates"]) for each in results[setup]])
                part["samples"] = part["samples"].astype(int)
                part["gates"] = [json.loads(results[setup][0]["gates"].iloc[0])] * len(part)
                parts.append(part.assign(comparison=comparison, arm=arm))
    table = pd.concat(parts, ignore_index=True)
    return table.assign(differs=differing_arms(table))


def main() -> None:
    options = parse_options(__doc__, list(COMPARISONS), steps=450, samples=200, left_out=("long",))
    same_for_everyone()
    started = time.perf_counter()
    setups = dict.fromkeys(setup for name in options.only for setup in COMPARISONS[name].values())
    results: dict[Setup, list[pd.DataFrame]] = {setup: [] for setup in setups}
    runs = [(setup, seed) for setup in setups for seed in range(options.seeds)]
    for number, (setup, seed) in enumerate(runs, start=1):
        results[setup].append(train_and_measure(setup, seed, options.steps, options.samples))
        say(f"run {number} of {len(runs)}: {setup}, seed {seed}, "
            f"{results[setup][-1]['seconds'].iloc[0]:.0f} s of training")
        result = report(options, results, time.perf_counter() - started)
        if options.output:
            options.output.write_text(result + "\n")
    print(tabulate(results, options.only).drop(columns=["gates"]).round(3).to_string(index=False))
    print(result)


def report(options: argparse.Namespace, results: dict, seconds: float) -> str:
    """The JSON line."""
    table = tabulate(results, options.only)
    settings = {name: value for name, value in vars(options).items() if name != "output"}
    return json.dumps({
        "benchmark": "cross_attention", "settings": settings | {"long steps": STEPS},
        "machine": machine(get_device().type), "seconds": round(seconds),
        "rows": json.loads(table.round(4).to_json(orient="records"))})


if __name__ == "__main__":
    main()
