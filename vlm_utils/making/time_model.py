"""The embedded model of lesson 07: `python -m vlm_utils.making.time_model`.

From the trained model (`trained_model`), more training on what only series ask for: up to sixteen
frames, dates in the prompt, in which image something happened, and boxes. Half of the questions
about what happens have dates before their images, so that the model reads prompts with and without.
Writes data/tiny_vlm_time/ and, beside the weights, its figures on the test split.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path

from vlm_utils.architecture import MultiImageProcessor, MultiImageVLM
from vlm_utils.datasets import (
    ImageTable,
    TaskDataset,
    add_orientations,
    build_recipes,
    build_tasks,
    load_image_table,
)
from vlm_utils.datasets.dates import dates_of, with_dates
from vlm_utils.evaluation import evaluate, predict
from vlm_utils.loading import load_checkpoint
from vlm_utils.making.conditions import only_embedded
from vlm_utils.profiles import data_folder, get_profile
from vlm_utils.time_series import WEATHER, box_scores, dated, weather_pairs
from vlm_utils.training import TrainingSettings, encode_table, print_progress, start_run, train

SETTINGS = TrainingSettings(steps=5000, batch_size=64, learning_rate=2e-3, optimizer="muon",
                            window=4)           # of each of the two trainings
ORIENTATIONS = 4
# Two trainings, one after the other. The first teaches what is new: boxes, dates, frames in bad
# weather. In the run that made the stored model, its answers to "months" and "before" were the bare
# number or word: 6.8% of months were right, no better than guessing. The second names the dates
# first, see `datasets/dates.py`, and has more of them and of long series.
# Without dates, and with a date before every image; and comparisons of frames taken in some
# weather, as many with a change between them as without.
PLAIN = {"sequence 2-8": 25_000, "sequence 9-16": 30_000, "when 2-8": 25_000, "when 9-16": 20_000,
         "locate 1": 90_000, "locate_change 2": 60_000, "compare 2": 12_000, "select 3": 8_000,
         "refer 4-8": 6_000}
DATED = {"date 2-8": 40_000, "before 3-8": 20_000, "months 2-8": 40_000, "sequence 2-8": 8_000,
         "when 2-8": 8_000}
WEATHERS = {"clouds": 8_000, "seasons": 3_000, "repeats": 1_000}
MORE_PLAIN = {"sequence 2-8": 30_000, "sequence 9-16": 45_000, "when 2-8": 10_000,
              "when 9-16": 20_000, "locate 1": 70_000, "locate_change 2": 30_000,
              "compare 2": 25_000, "select 3": 15_000, "refer 4-8": 10_000}
MORE_DATED = {"date 2-8": 25_000, "before 3-8": 30_000, "months 2-8": 90_000,
              "sequence 2-8": 6_000, "when 2-8": 6_000}
TRAININGS = ((PLAIN, DATED), (MORE_PLAIN, MORE_DATED))
TEST_PLAIN = {"sequence 8": 500, "sequence 12": 500, "sequence 16": 500, "when 8": 500,
              "when 16": 500, "compare 2": 500, "select 3": 500}
TEST_DATED = {"date 8": 500, "before 8": 500, "months 8": 500}
TEST_BOXES = {"locate 1": 500, "locate_change 2": 500}


def build_mixture(table: ImageTable, plain: dict[str, int], dated: dict[str, int],
                  seed: int, weathers: dict[str, int] | None = None) -> TaskDataset:
    """Samples with and without dates, and comparisons in bad weather, one after the other:
    training shuffles them."""
    questions = build_recipes(table.truth, dated, seed + 1)
    recipes = build_recipes(table.truth, plain, seed) + [
        with_dates(recipe, dates_of(recipe, table.truth)) for recipe in questions]
    for weather, samples in (weathers or {}).items():
        for changed in (False, True):
            recipes += weather_pairs(table.truth, weather, changed, samples, seed)
    return TaskDataset(table, recipes)


def measure(model: MultiImageVLM, processor: MultiImageProcessor, split: str = "test") -> dict:
    """Accuracy of each task and number of images, and the scores of boxes, on unseen places."""
    table = load_image_table(get_profile("tiny"), split)
    table.image_features = encode_table(table, model, processor)
    tasks = evaluate(model, processor, build_mixture(table, TEST_PLAIN, TEST_DATED, seed=1))
    print(tasks.round(3).to_string())
    boxes = build_tasks(table, TEST_BOXES, seed=1)
    scores = {name: box_scores(predict(model, processor, boxes.of_task(name)))
              for name in ("locate", "locate_change")}
    asked = dated(build_tasks(table, TEST_DATED, seed=1), shuffle=True)
    shuffled = evaluate(model, processor, asked).set_index("task")["accuracy"]
    alarms = {}
    for weather in WEATHER:
        still = TaskDataset(table, weather_pairs(table.truth, weather, False, 500, seed=1))
        told = predict(model, processor, still)
        alarms[weather] = {"pairs": len(told), "false_alarms": round(
            float((told["answer"] != told["prediction"]).mean()), 4)}
    figures = {"split": split, "weather": alarms,
               "tasks": json.loads(tasks.round(4).to_json(orient="records")),
               "boxes": {name: {key: round(float(value), 4) for key, value in found.items()}
                         for name, found in scores.items()},
               "shuffled_dates": shuffled.round(4).to_dict()}
    print(figures["boxes"], figures["shuffled_dates"], alarms)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the model of lesson 07.")
    parser.add_argument("--output", type=Path, default=data_folder() / "tiny_vlm_time")
    parser.add_argument("--start", type=Path, default=data_folder() / "tiny_vlm",
                        help="the checkpoint to start from")
    parser.add_argument("--after", type=int, default=0, metavar="N",
                        help="train on from the model in --output, which has N trainings behind it")
    parser.add_argument("--steps", type=int, default=SETTINGS.steps, help="of each training")
    parser.add_argument("--split", default="test", help="the split to measure on")
    options = parser.parse_args()
    only_embedded()
    figures_file, started = options.output / "figures.json", time.perf_counter()
    model, processor = load_checkpoint(options.output if options.after else options.start)
    table = add_orientations(load_image_table(get_profile("tiny"), "train"), ORIENTATIONS)
    table.image_features = encode_table(table, model, processor)
    for number, (plain, with_date) in enumerate(TRAININGS):
        if number < options.after:
            continue
        dataset = build_mixture(table, plain, with_date, seed=number, weathers=WEATHERS)
        print(f"{len(dataset):,} samples, {time.perf_counter() - started:.0f} s so far", flush=True)
        settings = replace(SETTINGS, steps=options.steps, seed=number)
        train(start_run(model, processor, dataset, settings), on_step=print_progress(250))
    minutes = (time.perf_counter() - started) / 60
    if options.after:
        minutes += json.loads(figures_file.read_text())["minutes"]
    model.save_pretrained(options.output)
    processor.save_pretrained(options.output)
    figures = {"steps": [options.steps] * len(TRAININGS), "minutes": round(minutes, 1)}
    figures |= measure(model, processor, options.split)
    figures_file.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
