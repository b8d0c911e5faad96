"""The embedded model of lesson 07: `python -m vlm_utils.making.time_model`.

From the trained model (`trained_model`), more training on what only series ask for: up to sixteen
frames, dates in the prompt, in which image something happened, and boxes. Some of the questions
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
from vlm_utils.making.more_places import more_series
from vlm_utils.profiles import data_folder, get_profile
from vlm_utils.time_series import WEATHER, box_scores, dated, weather_pairs
from vlm_utils.training import TrainingSettings, encode_table, print_progress, start_run, train

SETTINGS = TrainingSettings(steps=5000, batch_size=64, learning_rate=2e-3, optimizer="muon",
                            window=4)           # of each of the first two trainings
ORIENTATIONS = 4
MORE_PLACES, MORE_ORIENTATIONS = 4_000, 2        # of the third training
# Three trainings, one after the other. The first teaches what is new: boxes, dates, frames in bad
# weather. In the run that made the stored model, its answers to "months" and "before" were the bare
# number or word: 6.8% of months were right, no better than guessing. The second names the dates
# first, see `datasets/dates.py`, and has more of them and of long series. After it, the model told
# 99.9% of the series of 8 to 16 frames rightly if it had seen their places in training, and 97% of
# those of other places. So the third goes on with places that data/ does not hold, and more than
# half of its samples have 9 to 16 frames. `benchmarks/more_frames.py` measures it.
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
LONG_PLAIN = {"sequence 2-8": 14_000, "sequence 9-16": 66_000, "when 9-16": 6_000,
              "locate 1": 26_000, "locate_change 2": 6_000, "compare 2": 5_000, "select 3": 3_000,
              "refer 1-8": 3_000}
LONG_DATED = {"date 2-8": 3_000, "before 3-8": 2_000, "months 2-8": 3_000}
TRAININGS = ((PLAIN, DATED), (MORE_PLAIN, MORE_DATED), (LONG_PLAIN, LONG_DATED))
LONG_WEATHERS = {"clouds": 1_500, "seasons": 700, "repeats": 300}
WEATHERS_OF = (WEATHERS, WEATHERS, LONG_WEATHERS)
SETTINGS_OF = (SETTINGS, SETTINGS, replace(SETTINGS, steps=1200, learning_rate=1.5e-3,
                                           warmup_steps=100))
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


def training_table(number: int) -> ImageTable:
    """The images of one of TRAININGS, counted from 0: those in data/, or MORE_PLACES."""
    if number < 2:
        return add_orientations(load_image_table(get_profile("tiny"), "train"), ORIENTATIONS)
    return add_orientations(more_series(MORE_PLACES), MORE_ORIENTATIONS)


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


def settings_of(number: int, steps: int | None = None, seed: int = 0) -> TrainingSettings:
    """The settings of one of TRAININGS, counted from 0, with other steps or another seed."""
    settings = replace(SETTINGS_OF[number], seed=number + 100 * seed)
    return settings if steps is None else replace(
        settings, steps=steps, warmup_steps=min(settings.warmup_steps, steps))


def train_once(number: int, model: MultiImageVLM, processor: MultiImageProcessor,
               steps: int | None = None, seed: int = 0) -> None:
    """One of TRAININGS, counted from 0.

    seed: another one draws other samples, in another order. Seed 0 made the stored model.
    """
    settings, table = settings_of(number, steps, seed), training_table(number)
    table.image_features = encode_table(table, model, processor)
    dataset = build_mixture(table, *TRAININGS[number], settings.seed, WEATHERS_OF[number])
    print(f"training {number + 1}: {len(dataset):,} samples, {settings.steps:,} steps", flush=True)
    train(start_run(model, processor, dataset, settings), on_step=print_progress(250))


def make(output: Path, start: Path, after: int = 0, until: int = len(TRAININGS),
         steps: int | None = None, seed: int = 0) -> dict:
    """Train on from the model in `start`, which has `after` trainings behind it, to number `until`.

    Writes model, processor and figures.json to `output`, and returns what the latter holds: steps
    and minutes of all its trainings. steps: of each training, instead of its own number. Raises
    FileNotFoundError if a model that has trainings behind it has no figures.json.
    """
    started, done = time.perf_counter(), {"steps": [], "minutes": 0}
    if after:
        done = json.loads((start / "figures.json").read_text())
    model, processor = load_checkpoint(start)
    for number in range(after, until):
        train_once(number, model, processor, steps, seed)
    minutes = done["minutes"] + (time.perf_counter() - started) / 60
    model.save_pretrained(output)
    processor.save_pretrained(output)
    figures = {"steps": done["steps"][:after] + [
        settings_of(number, steps).steps for number in range(after, until)],
        "minutes": round(minutes, 1)}
    write_figures(output, figures)
    return figures


def write_figures(folder: Path, figures: dict) -> None:
    (folder / "figures.json").write_text(json.dumps(figures, indent=2) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the model of lesson 07.")
    parser.add_argument("--output", type=Path, default=data_folder() / "tiny_vlm_time")
    parser.add_argument("--start", type=Path, help="the checkpoint to start from (default: "
                        "data/tiny_vlm, or with --after the model in --output)")
    parser.add_argument("--after", type=int, default=0, metavar="N", choices=range(len(TRAININGS)),
                        help="the model to start from has N trainings behind it")
    parser.add_argument("--until", type=int, default=len(TRAININGS), metavar="N",
                        help=f"stop after training N of {len(TRAININGS)}")
    parser.add_argument("--steps", type=int, help="of each training (default: its own number)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--split", default="test", help="the split to measure on")
    parser.add_argument("--evaluate", action="store_true",
                        help="train nothing: write the figures of the model in --output again")
    options = parser.parse_args()
    if not options.after < options.until <= len(TRAININGS):
        parser.error(f"--until is a number from {options.after + 1} to {len(TRAININGS)}, not "
                     f"{options.until}")
    only_embedded()
    output = options.output
    if options.evaluate:
        figures = json.loads((output / "figures.json").read_text())
    else:
        start = options.start or (output if options.after else data_folder() / "tiny_vlm")
        figures = make(output, start, options.after, options.until, options.steps, options.seed)
    write_figures(output, {name: figures[name] for name in ("steps", "minutes")}
                  | measure(*load_checkpoint(output), options.split))


if __name__ == "__main__":
    main()
