"""The embedded trained model: `python -m vlm_utils.trained_model`.

Lesson 04 at greater length: from the base model, on the embedded training split, with up to eight
images a sample. Writes data/tiny_vlm/ and, beside the weights, its figures on the test split.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

from vlm_utils.datasets import (
    TaskDataset,
    add_turns,
    build_recipes,
    build_tasks,
    load_image_table,
)
from vlm_utils.evaluation import evaluate, free_text_scores, predict
from vlm_utils.loading import load_base_model
from vlm_utils.profiles import get_profile
from vlm_utils.tiny_earth import data_folder
from vlm_utils.training import TrainingSettings, encode_table, print_progress, train

STEPS = 9_000
TURNS = 4
# "each" teaches the names that the base model has not met, of images 4 to 8.
MIXTURE = {"select 2": 15_000, "select 3": 35_000, "select 4-8": 100_000, "compare 2": 30_000,
           "sequence 2-4": 60_000, "sequence 5-8": 110_000, "refer 1-3": 30_000,
           "refer 4-8": 60_000, "each 4-8": 20_000, "describe 1": 8_000}
TEST_MIXTURE = {"select 2": 500, "select 3": 500, "select 8": 500, "compare 2": 500,
                "sequence 2": 500, "sequence 3": 500, "sequence 4": 500, "sequence 8": 500,
                "refer 1": 500, "refer 3": 500, "refer 8": 500}


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the model that lesson 05 falls back on.")
    parser.add_argument("--output", type=Path, default=data_folder() / "tiny_vlm")
    parser.add_argument("--steps", type=int, default=STEPS)
    options = parser.parse_args()
    profile = get_profile("tiny")
    started = time.perf_counter()
    model, processor = load_base_model(profile)
    tables = {split: load_image_table(profile, split) for split in ("train", "test")}
    turned = add_turns(tables["train"], TURNS)
    dataset = build_tasks(turned, MIXTURE, seed=0)
    dataset.features = encode_table(turned, model, processor)
    print(f"{len(dataset):,} samples, {time.perf_counter() - started:.0f} s so far", flush=True)
    train(model, dataset, processor, TrainingSettings.of(profile, steps=options.steps),
          on_step=print_progress(250))
    minutes = (time.perf_counter() - started) / 60
    test = build_tasks(tables["test"], TEST_MIXTURE, seed=1)
    test.features = encode_table(tables["test"], model, processor)
    table = evaluate(model, processor, test)
    print(table.round(3).to_string())
    model.save_pretrained(options.output)
    processor.save_pretrained(options.output)
    described = TaskDataset(tables["test"], build_recipes(
        tables["test"].truth, {"describe 1": 500}, seed=1), test.features)
    text = {name: round(score, 4) for name, score in free_text_scores(
        described, predict(model, processor, described)).items()}
    print(text)
    figures = {"split": "test", "steps": options.steps,
               "minutes": round(minutes, 1), "descriptions": text,
               "tasks": json.loads(table.round(4).to_json(orient="records"))}
    (options.output / "figures.json").write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
