"""The embedded trained model: `python -m vlm_utils.making.trained_model`.

Lesson 04 at greater length: from the base model, on the embedded training split, with up to eight
images a sample. Writes data/tiny_vlm/ and, beside the weights, its figures on the test split.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path

from vlm_utils.architecture import MultiImageProcessor, MultiImageVLM
from vlm_utils.datasets import (
    TaskDataset,
    add_orientations,
    build_recipes,
    build_tasks,
    load_image_table,
)
from vlm_utils.evaluation import evaluate, free_text_scores, predict
from vlm_utils.loading import load_base_model, load_checkpoint
from vlm_utils.profiles import data_folder, get_profile
from vlm_utils.training import TrainingSettings, encode_table, print_progress, start_run, train

STEPS = 9_000
ORIENTATIONS = 4
# "each" teaches the names that the base model has not met, of images 4 to 8.
MIXTURE = {"select 2": 15_000, "select 3": 35_000, "select 4-8": 100_000, "compare 2": 30_000,
           "sequence 2-4": 60_000, "sequence 5-8": 110_000, "refer 1-3": 30_000,
           "refer 4-8": 60_000, "each 4-8": 20_000, "describe 1": 8_000}
TEST_MIXTURE = {"select 2": 500, "select 3": 500, "select 8": 500, "compare 2": 500,
                "sequence 2": 500, "sequence 3": 500, "sequence 4": 500, "sequence 8": 500,
                "refer 1": 500, "refer 3": 500, "refer 8": 500}
TEST_DESCRIPTIONS = 500


def measure(model: MultiImageVLM, processor: MultiImageProcessor) -> dict:
    """Accuracy on the test split for each task and number of images, and scores of descriptions."""
    table = load_image_table(get_profile("tiny"), "test")
    asked = build_tasks(table, TEST_MIXTURE, seed=1)
    table.image_features = encode_table(table, model, processor)
    tasks = evaluate(model, processor, asked)
    print(tasks.round(3).to_string())
    recipes = build_recipes(table.truth, {"describe 1": TEST_DESCRIPTIONS}, seed=1)
    described = TaskDataset(table, recipes)
    scores = free_text_scores(described, predict(model, processor, described))
    text = {name: round(score, 4) for name, score in scores.items()}
    print(text)
    return {"descriptions": text, "tasks": json.loads(tasks.round(4).to_json(orient="records"))}


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the model that lesson 05 falls back on.")
    parser.add_argument("--output", type=Path, default=data_folder() / "tiny_vlm")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--evaluate", action="store_true",
                        help="train nothing: write the figures of the model in --output anew")
    options = parser.parse_args()
    os.environ.pop("VLM_IMAGES", None)  # the embedded model is of the embedded data
    figures_file = options.output / "figures.json"
    if options.evaluate:
        figures = json.loads(figures_file.read_text())
        figures |= measure(*load_checkpoint(options.output))
        figures_file.write_text(json.dumps(figures, indent=2) + "\n")
        return
    profile = get_profile("tiny")
    started = time.perf_counter()
    model, processor = load_base_model(profile)
    table = add_orientations(load_image_table(profile, "train"), ORIENTATIONS)
    dataset = build_tasks(table, MIXTURE, seed=0)
    table.image_features = encode_table(table, model, processor)
    print(f"{len(dataset):,} samples, {time.perf_counter() - started:.0f} s so far", flush=True)
    settings = TrainingSettings.of(profile, steps=options.steps)
    train(start_run(model, processor, dataset, settings), on_step=print_progress(250))
    minutes = (time.perf_counter() - started) / 60
    model.save_pretrained(options.output)
    processor.save_pretrained(options.output)
    figures = {"split": "test", "steps": options.steps, "minutes": round(minutes, 1)}
    figures |= measure(model, processor)
    figures_file.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
