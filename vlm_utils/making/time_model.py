"""The embedded model of lesson 07: `python -m vlm_utils.making.time_model`.

From the trained model (`trained_model`), more training on what only series ask for: up to sixteen
frames, dates in the prompt, in which image something happened, and boxes. Half of the questions
about what happens have dates before their images, so that the model reads prompts with and without.
Then two further trainings on more places, and the mean of the weights before and after them. Writes
data/tiny_vlm_time/ and, beside the weights, its figures on the test split.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import torch

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
# Then the model told 99.9% of the series of 8 to 16 frames rightly if their places had been seen in
# training, and 97% of those of the test places. So it is trained further on places that data/ does
# not hold, more than half of the samples with 9 to 16 frames, twice from the same weights with two
# seeds, and the stored model is the mean of all three (model soups, Wortsman et al. 2022).
# `benchmarks/more_frames.py` compares them; --no-average leaves it at the first two trainings,
# which is also what the model of lesson 09's tasks began with.
LONG_PLAIN = {"sequence 2-8": 14_000, "sequence 9-16": 66_000, "when 9-16": 6_000,
              "locate 1": 26_000, "locate_change 2": 6_000, "compare 2": 5_000, "select 3": 3_000,
              "refer 1-8": 3_000}
LONG_DATED = {"date 2-8": 3_000, "before 3-8": 2_000, "months 2-8": 3_000}
LONG_WEATHERS = {"clouds": 1_500, "seasons": 700, "repeats": 300}
LONG_STEPS, LONG_PLACES, LONG_ORIENTATIONS = 1_200, 4_000, 2
AVERAGED_SEEDS = (0, 1)
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


def long_settings(seed: int, steps: int = LONG_STEPS) -> TrainingSettings:
    """The settings of a further training. Its samples are drawn with the same seed."""
    return replace(SETTINGS, steps=steps, learning_rate=1.5e-3, warmup_steps=min(100, steps),
                   seed=len(TRAININGS) + 100 * seed)


def train_on_long_series(model: MultiImageVLM, processor: MultiImageProcessor, seed: int,
                         steps: int = LONG_STEPS) -> None:
    """A further training of a model, on long series of more places."""
    table = add_orientations(more_series(LONG_PLACES), LONG_ORIENTATIONS)
    table.image_features = encode_table(table, model, processor)
    settings = long_settings(seed, steps)
    dataset = build_mixture(table, LONG_PLAIN, LONG_DATED, settings.seed, LONG_WEATHERS)
    print(f"{len(dataset):,} samples of long series, seed {seed}", flush=True)
    train(start_run(model, processor, dataset, settings), on_step=print_progress(250))


@torch.no_grad()
def average_weights(models: Sequence[MultiImageVLM]) -> MultiImageVLM:
    """A model whose weights are the mean of theirs (Wortsman et al. 2022).

    Of use only for models that were trained on from the same weights: the mean of two that began
    apart knows nothing. Weights that are equal in all stay as they are, bit for bit.
    """
    mean = deepcopy(models[0])
    others = [dict(model.named_parameters()) for model in models]
    for name, weight in mean.named_parameters():
        if any(not torch.equal(weight, other[name]) for other in others):
            weight.copy_(torch.stack([other[name] for other in others]).mean(0))
    return mean


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
                        help="train on from the model in --output, which has N trainings behind it "
                             f"({len(TRAININGS)}: only what comes after them)")
    parser.add_argument("--steps", type=int, default=SETTINGS.steps, help="of each training")
    parser.add_argument("--no-average", dest="average", action="store_false",
                        help="without the two further trainings, and the mean of the weights "
                             "before and after them")
    parser.add_argument("--split", default="test", help="the split to measure on")
    options = parser.parse_args()
    only_embedded()
    figures_file, started = options.output / "figures.json", time.perf_counter()
    model, processor = load_checkpoint(options.output if options.after else options.start)
    if options.after < len(TRAININGS):
        table = add_orientations(load_image_table(get_profile("tiny"), "train"), ORIENTATIONS)
        table.image_features = encode_table(table, model, processor)
    for number, (plain, with_date) in enumerate(TRAININGS):
        if number < options.after:
            continue
        dataset = build_mixture(table, plain, with_date, seed=number, weathers=WEATHERS)
        print(f"{len(dataset):,} samples, {time.perf_counter() - started:.0f} s so far", flush=True)
        settings = replace(SETTINGS, steps=options.steps, seed=number)
        train(start_run(model, processor, dataset, settings), on_step=print_progress(250))
    trained, further_seeds = [model], AVERAGED_SEEDS if options.average else ()
    for seed in further_seeds:
        trained.append(deepcopy(model))
        train_on_long_series(trained[-1], processor, seed, min(LONG_STEPS, options.steps))
    model = average_weights(trained)
    minutes = (time.perf_counter() - started) / 60
    if options.after:
        minutes += json.loads(figures_file.read_text())["minutes"]
    model.save_pretrained(options.output)
    processor.save_pretrained(options.output)
    figures = {"steps": [options.steps] * len(TRAININGS)
               + [min(LONG_STEPS, options.steps)] * len(further_seeds),
               "minutes": round(minutes, 1)}
    figures |= measure(model, processor, options.split)
    figures_file.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
