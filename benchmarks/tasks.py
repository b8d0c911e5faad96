"""Several tasks from one model: what does each task gain or lose by being learnt with the others?

    python benchmarks/tasks.py --seeds 3                    every arm
    python benchmarks/tasks.py --only alone,"equal steps"   some of them

alone           one training for each of lesson 09's tasks: as many models as tasks
equal samples   one training on all of them, with as many times the steps: each task has as many
                samples as alone
equal steps     one training on all of them, with the steps of one: it costs what one task costs

Each starts from the base model in data/, which describes single images and answers about them, and
has compared nothing. `accuracy` is the share of test samples that are wholly right (`right_answers`
of real_data), `score` what the task's own field counts, `seconds` the training of the whole arm.
Questions, intervals and `differs` are those of ablations.py.
The last line is JSON, which --output also writes to a file, after each run.
"""

from __future__ import annotations

import argparse
import json
import time
from functools import cache

import pandas as pd
from ablations import differing_arms, parse_options
from common import machine, same_for_everyone, say
from learning import over_seeds

from vlm_utils.datasets import ImageTable, add_orientations, load_image_table
from vlm_utils.evaluation import predict
from vlm_utils.loading import load_base_model
from vlm_utils.profiles import get_device, get_profile
from vlm_utils.real_data import INSTRUCTIONS, LONGEST_ANSWER, instruct, score_tasks
from vlm_utils.training import TrainingSettings, encode_table, start_run, train

ARMS = ("alone", "equal samples", "equal steps")
BATCH, ORIENTATIONS = 32, 2


@cache
def encoded(split: str) -> ImageTable:
    """The images of a split, encoded once: the encoder is frozen, and the same in every run."""
    table = load_image_table(get_profile("tiny"), split)
    if split == "train":
        table = add_orientations(table, ORIENTATIONS)
    table.image_features = encode_table(table, *load_base_model(get_profile("tiny")))
    return table


def trainings(arm: str, steps: int) -> list[tuple[dict[str, int], int]]:
    """The trainings of an arm: how many samples of each task, and how many steps."""
    seen = steps * BATCH
    if arm == "alone":
        return [({task: seen}, steps) for task in INSTRUCTIONS]
    if arm == "equal samples":
        return [(dict.fromkeys(INSTRUCTIONS, seen), steps * len(INSTRUCTIONS))]
    return [(dict.fromkeys(INSTRUCTIONS, seen // len(INSTRUCTIONS)), steps)]


def train_and_measure(arm: str, seed: int, steps: int, samples: int) -> pd.DataFrame:
    """All trainings of one arm, and each task's share of right answers."""
    parts, seconds = [], 0.0
    for counts, length in trainings(arm, steps):
        model, processor = load_base_model(get_profile("tiny"))
        settings = TrainingSettings(steps=length, batch_size=BATCH, learning_rate=2e-3,
                                    warmup_steps=min(50, length), optimizer="muon", window=4,
                                    seed=seed)
        history = train(start_run(model, processor, instruct(encoded("train"), counts, seed),
                                  settings))
        seconds += float(history["seconds"].iloc[-1])
        asked = instruct(encoded("test"), dict.fromkeys(counts, samples), seed=1)
        parts.append(score_tasks(predict(model, processor, asked, max_new_tokens=LONGEST_ANSWER)))
    measured = pd.concat(parts).rename(columns={"right": "accuracy"})
    images = {task: 2 if task.startswith("change") else 1 for task in INSTRUCTIONS}
    measured["num_images"] = measured["task"].map(images)
    columns = ["task", "num_images", "samples", "accuracy", "score", "in_form"]
    return measured[columns].assign(seed=seed, seconds=seconds)


def tabulate(results: dict[str, list[pd.DataFrame]]) -> pd.DataFrame:
    """One row for each arm and task, over the seeds that are done."""
    parts = []
    for arm, done in results.items():
        if done:
            part = over_seeds(done)
            part["samples"] = part["samples"].astype(int)
            parts.append(part.assign(comparison="tasks", arm=arm))
    table = pd.concat(parts, ignore_index=True)
    return table.assign(differs=differing_arms(table))


def main() -> None:
    options = parse_options(__doc__, ARMS, steps=400, samples=300)
    same_for_everyone()
    started = time.perf_counter()
    results: dict[str, list[pd.DataFrame]] = {arm: [] for arm in options.only}
    runs = [(arm, seed) for seed in range(options.seeds) for arm in options.only]
    for number, (arm, seed) in enumerate(runs, start=1):
        results[arm].append(train_and_measure(arm, seed, options.steps, options.samples))
        say(f"run {number} of {len(runs)}: {arm}, seed {seed}, "
            f"{results[arm][-1]['seconds'].iloc[0]:.0f} s of training")
        result = report(options, results, time.perf_counter() - started)
        if options.output:
            options.output.write_text(result + "\n")
    print(tabulate(results).round(3).to_string(index=False))
    print(result)


def report(options: argparse.Namespace, results: dict, seconds: float) -> str:
    """The JSON line."""
    settings = {name: value for name, value in vars(options).items() if name != "output"}
    return json.dumps({
        "benchmark": "tasks", "settings": settings | {"batch": BATCH},
        "machine": machine(get_device().type), "seconds": round(seconds),
        "rows": json.loads(tabulate(results).round(4).to_json(orient="records"))})


if __name__ == "__main__":
    main()
