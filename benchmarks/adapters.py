"""LoRA against training everything, at equal steps: how well does each model do?

    python benchmarks/adapters.py --seeds 3 --output benchmarks/adapters.json

full       projector and language model, as lesson 04 trains them
rank 4     LoRA of that rank on every matrix of the language model, and the projector; or rank 32
projector  the projector alone: the language model stays as it is

Each arm starts from the base model in data/ and takes lesson 04's mixture, batch and as many steps
(--steps). The optimizer is the lesson's too; the learning rate of LoRA is LORA_RATE times as
high, chosen on seed 0 by the loss of training. Questions, intervals and `differs` are those of
ablations.py. The last line is JSON, which --output also writes to a file, after each run; started
again, it goes on after the runs that are in that file.
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

from vlm_utils.datasets import add_orientations, build_tasks, load_image_table
from vlm_utils.evaluation import evaluate
from vlm_utils.loading import load_base_model
from vlm_utils.profiles import get_device, get_profile
from vlm_utils.scaling import add_adapter
from vlm_utils.training import TrainingSettings, encode_table, start_run, train

TASKS = ("select 3", "compare 2", "sequence 4", "refer 3")
LORA_RATE = 4.0


@dataclass(frozen=True)
class Setup:
    """What is trained beside the projector: everything, or LoRA of a rank, or (rank 0) nothing."""

    rank: int | None = None


COMPARISONS = {"trained": {"full": Setup(), "rank 4": Setup(4), "rank 32": Setup(32),
                           "projector": Setup(0)}}


def train_and_measure(setup: Setup, seed: int, steps: int, samples: int) -> pd.DataFrame:
    """One training and its accuracy for each task, with its seconds and its trained weights."""
    profile = get_profile("tiny")
    model, processor = load_base_model(profile)
    table = add_orientations(load_image_table(profile, "train"), profile.orientations)
    table.image_features = encode_table(table, model, processor)
    settings = TrainingSettings.of(profile, steps=steps, seed=seed, checkpoint_every=0)
    if setup.rank == 0:
        model.language_model.requires_grad_(False)
    elif setup.rank is not None:
        model = add_adapter(model, setup.rank, seed=seed)
        settings = TrainingSettings.of(
            profile, steps=steps, seed=seed, checkpoint_every=0,
            learning_rate=LORA_RATE * settings.learning_rate)
    share = min(1, steps * settings.batch_size / sum(profile.mixture.values()) + 0.01)
    mixture = {name: round(share * count) for name, count in profile.mixture.items()}
    run = start_run(model, processor, build_tasks(table, mixture, seed=seed), settings)
    history = train(run)
    questions = test_questions(TASKS, samples, model, processor)
    measured = evaluate(model, processor, questions)[[*KEY, "samples", "accuracy"]]
    return measured.assign(
        seed=seed, seconds=float(history["seconds"].iloc[-1]),
        trained=sum(w.numel() for w in model.parameters() if w.requires_grad))


def read_runs(options: argparse.Namespace, setups: list[Setup]) -> dict[Setup, list[pd.DataFrame]]:
    """Those of the output file. Raises ValueError if they had other steps or questions."""
    if not (options.output and options.output.is_file()):
        return {setup: [] for setup in setups}
    stored = json.loads(options.output.read_text())
    for name in ("steps", "samples"):
        if stored["settings"][name] != getattr(options, name):
            raise ValueError(f"{options.output} was made with {name}={stored['settings'][name]}: "
                             "give the same, or another file")
    return {setup: [pd.DataFrame(rows) for rows in stored["runs"].get(str(setup.rank), [])]
            for setup in setups}


def tabulate(results: dict[Setup, list[pd.DataFrame]]) -> pd.DataFrame:
    """One row for each arm, task and number of images, over the seeds that are done."""
    parts = [over_seeds(results[setup]).assign(comparison="trained", arm=arm)
             for arm, setup in COMPARISONS["trained"].items() if results[setup]]
    table = pd.concat(parts, ignore_index=True)
    table[["samples", "trained"]] = table[["samples", "trained"]].astype(int)
    return table.assign(differs=differing_arms(table))


def main() -> None:
    options = parse_options(__doc__, list(COMPARISONS), steps=600, samples=300)
    same_for_everyone()
    started = time.perf_counter()
    setups = list(COMPARISONS["trained"].values())
    results = read_runs(options, setups)
    runs = [(setup, seed) for seed in range(options.seeds) for setup in setups]
    for number, (setup, seed) in enumerate(runs, start=1):
        if len(results[setup]) > seed:
            continue
        results[setup].append(train_and_measure(setup, seed, options.steps, options.samples))
        last = results[setup][-1]
        say(f"run {number} of {len(runs)}: {setup}, seed {seed}, {last['seconds'].iloc[0]:.0f} s, "
            + ", ".join(f"{row.task} {row.accuracy:.3f}" for row in last.itertuples()))
        if options.output:
            spent = time.perf_counter() - started
            options.output.write_text(report(options, results, spent) + "\n")
    print(tabulate(results).round(3).to_string(index=False))
    print(report(options, results, time.perf_counter() - started))


def report(options: argparse.Namespace, results: dict, seconds: float) -> str:
    """The JSON line."""
    settings = {name: value for name, value in vars(options).items() if name != "output"}
    return json.dumps({
        "benchmark": "adapters", "settings": settings | {"LoRA's rate": LORA_RATE},
        "machine": machine(get_device().type), "seconds": round(seconds),
        "runs": {str(setup.rank): [json.loads(each.to_json(orient="records")) for each in tables]
                 for setup, tables in results.items()},
        "rows": json.loads(tabulate(results).round(4).to_json(orient="records"))})


if __name__ == "__main__":
    main()
