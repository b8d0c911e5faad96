"""Does it learn from several images? Lesson 04's training, several seeds, with controls.

    python benchmarks/learning.py --seeds 3     train and measure, once for each seed
    python benchmarks/learning.py --quick       measure the trained model in data/ only
    python benchmarks/learning.py --split validation --set optimizer=adamw --set steps=1500

The third trains otherwise, to choose: choices belong to the validation split, for a number that
was chosen by looking at test places says too much.

Greedy decoding. The last line is JSON: for each task and number of images the accuracy, its 95%
interval, chance, the prior (always the commonest answer to that kind of question), what is left
without images (blind) and with those of another sample (shuffled), and the share of answers that
are invalid.
"""

from __future__ import annotations

import argparse
import json
import time

import pandas as pd
from common import same_for_everyone

from vlm_utils.datasets import TaskDataset, add_orientations, build_tasks, load_image_table
from vlm_utils.evaluation import evaluate_with_controls, wilson_interval
from vlm_utils.loading import load_base_model, load_checkpoint
from vlm_utils.profiles import data_folder, get_profile
from vlm_utils.training import (
    TrainingSettings,
    encode_table,
    print_progress,
    start_run,
    train,
)

LESSON_TASKS = ("select 2", "select 3", "compare 2", "sequence 2", "sequence 3", "sequence 4",
                "refer 1", "refer 2", "refer 3")
MORE_TASKS = ("select 8", "sequence 8", "refer 8")  # of the trained model in data/
KEY = ["task", "num_images"]
TEST_SEED = 1  # the same questions for every run


def test_questions(names: tuple[str, ...], samples: int, model, processor,
                   split: str = "test") -> TaskDataset:
    """So many questions of each task and number of images about unseen places, images encoded."""
    table = load_image_table(get_profile("tiny"), split)
    table.image_features = encode_table(table, model, processor)
    return build_tasks(table, dict.fromkeys(names, samples), seed=TEST_SEED)


def measure_splits(names: tuple[str, ...], samples: int, model, processor,
                   splits: list[str]) -> pd.DataFrame:
    """evaluate_with_controls() on each split, named in a column."""
    return pd.concat([
        evaluate_with_controls(
            model, processor, test_questions(names, samples, model, processor, split)
        ).assign(split=split) for split in splits], ignore_index=True)


def parse_setting(text: str) -> tuple[str, object]:
    """("steps", 1500) of "steps=1500", in the type of that field of TrainingSettings."""
    name, _, value = text.partition("=")
    defaults = vars(TrainingSettings(steps=1))
    if name not in defaults or name == "seed":
        names = ", ".join(sorted(defaults.keys() - {"seed"}))
        raise argparse.ArgumentTypeError(f"{name!r} is none of {names}")
    try:
        return name, type(defaults[name])(value)
    except ValueError:
        kind = type(defaults[name]).__name__
        raise argparse.ArgumentTypeError(f"{name} is of type {kind}, not {value!r}") from None


def train_and_measure(seed: int, samples: int, changes: dict,
                      splits: list[str]) -> tuple[pd.DataFrame, float]:
    """Lesson 04 from the shipped base model, with this seed; the table and seconds of training."""
    profile = get_profile("tiny")
    model, processor = load_base_model(profile)
    table = add_orientations(load_image_table(profile, "train"), profile.orientations)
    table.image_features = encode_table(table, model, processor)
    dataset = build_tasks(table, profile.mixture, seed=seed)
    settings = TrainingSettings.of(profile, **changes | {"seed": seed})
    run = start_run(model, processor, dataset, settings)
    history = train(run, on_step=print_progress(500))
    measured = measure_splits(LESSON_TASKS, samples, model, processor, splits)
    return measured.assign(seed=seed), float(history["seconds"].iloc[-1])


def over_seeds(tables: list[pd.DataFrame]) -> pd.DataFrame:
    """Means over the seeds, every seed's accuracy, and the interval of the mean.

    The seeds answer the same questions, so the interval is that of one run's number of samples.
    """
    together = pd.concat(tables)
    keys = [key for key in ("split", *KEY) if key in together]
    means = together.groupby(keys, sort=False).mean(numeric_only=True).drop(columns=["seed"])
    means["seeds"] = together.groupby(keys, sort=False)["accuracy"].apply(
        lambda values: [round(float(value), 3) for value in values])
    intervals = [wilson_interval(round(row.accuracy * row.samples), int(row.samples))
                 for row in means.itertuples()]
    means["low"], means["high"] = zip(*intervals, strict=True)
    return means.reset_index()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3, help="trainings (default: 3)")
    parser.add_argument("--samples", type=int, default=500,
                        help="questions of each task, number of images and split (default: 500)")
    parser.add_argument("--split", choices=("validation", "test"), action="append",
                        dest="splits", help="places to ask about, also several (default: test)")
    parser.add_argument("--quick", action="store_true", help="the trained model in data/ only")
    parser.add_argument("--set", type=parse_setting, action="append", default=[], dest="changes",
                        metavar="NAME=VALUE", help="train with another setting than the lesson's")
    options = parser.parse_args()
    splits = options.splits or ["test"]
    if options.seeds < 1 or options.samples < 2:
        parser.error("--seeds is at least 1 and --samples at least 2")
    if options.quick and options.changes:
        parser.error("--quick trains nothing: leave out --set")
    same_for_everyone()
    started, training_seconds = time.perf_counter(), []
    if options.quick:
        model, processor = load_checkpoint(data_folder() / get_profile("tiny").trained_model)
        table = measure_splits(LESSON_TASKS + MORE_TASKS, options.samples, model, processor, splits)
    else:
        tables = []
        for seed in range(options.seeds):
            print(f"seed {seed}, {seed + 1} of {options.seeds}", flush=True)
            measured, seconds = train_and_measure(seed, options.samples,
                                                  dict(options.changes), splits)
            tables.append(measured)
            print(measured.round(3).to_string(index=False), flush=True)
            training_seconds.append(round(seconds))
        table = over_seeds(tables)
    print(table.round(3).to_string(index=False))
    print(json.dumps({
        "benchmark": "learning", "model": "data/tiny_vlm" if options.quick else "lesson 04",
        "splits": splits, "samples": options.samples, "changes": dict(options.changes),
        "training_seconds": training_seconds,
        "seconds": round(time.perf_counter() - started),
        "tasks": json.loads(table.round(4).to_json(orient="records"))}))


if __name__ == "__main__":
    main()
