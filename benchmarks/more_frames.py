"""More frames: what a training on long series brings with 8 to 16 frames, and loses on fewer.

    python -m vlm_utils.making.time_model --until 2 --output build/two
    python benchmarks/more_frames.py --start build/two --output benchmarks/more_frames.json

The third training of lesson 07's model (`vlm_utils/making/time_model.py`) again, with several
seeds: more than half of its samples have 9 to 16 frames, the others repeat what was learnt before.
Asked before and after it: what happens over 2 to 16 frames, the short tasks, when, dates, boxes,
and changes that are reported although only light, cloud or season differ.

`parts` says which parts of the answers about long series are wrong: what happened (event), to which
thing (what), at which place (where), in which image (image). An answer may be wrong in several.
`weather` has the accuracy on the same series by how they were taken. `pairs` are the series whose
neighbouring frames the same model, asked about two at a time, compares rightly, all of them: for
series that it tells rightly, and for those that it gets wrong. What it cannot see in two frames it
does not see in sixteen either, whatever it pays attention to.

Each seed's model stays in build/more_frames/, so a run that was cut short goes on where it was; a
model of other settings is made again. The interval is that of one run's questions:
the seeds answer the same ones. `differs`: the change is larger than the 95% interval of the
difference, and every seed is on the same side of the start. A plot goes to
build/benchmarks/more_frames.png; the last line is JSON, which --output also writes to a file.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
from collections import Counter
from pathlib import Path

import pandas as pd
from ablations import at_least_one, differing_arms
from common import machine, plot_path, same_for_everyone, say
from learning import KEY, over_seeds

from vlm_utils.datasets import (
    COMPARE_PROMPT,
    ImageTable,
    Recipe,
    TaskDataset,
    build_tasks,
    images_first,
    load_image_table,
)
from vlm_utils.evaluation import grade, predict, summarise
from vlm_utils.loading import load_checkpoint
from vlm_utils.making import time_model
from vlm_utils.plots import BLUE, ORANGE, new_figure
from vlm_utils.profiles import data_folder, get_device, get_profile, output_folder
from vlm_utils.tiny_earth import KINDS, describe_change
from vlm_utils.tiny_earth.scenes import CELLS, COVERS, LINE_PLACES
from vlm_utils.training import encode_table

LAST = len(time_model.TRAININGS) - 1            # the third training, counted from 0
LONG = ("sequence 8", "sequence 12", "sequence 16")     # first, as in time_model: the same draws
SERIES = {name: time_model.TEST_PLAIN[name] for name in LONG} | {
    "sequence 2": 500, "sequence 3": 500, "sequence 4": 500, "refer 3": 500}
FEWEST = 8                                      # frames of what counts as a long series here
COMPARED = 150                                  # rightly told series whose pairs are asked about
EVENTS = ("becomes", "moves", "grows", "shrinks", "appears", "disappears", "reappears")
MADE_OF = "made_of.json"


# --- what is wrong with an answer --------------------------------------------------------------

def _words(names) -> re.Pattern:
    """One of some names, the longest first, so that none hides another that it begins."""
    return re.compile(rf"\b(?:{'|'.join(sorted(names, key=len, reverse=True))})")


PARTS = {"event": _words((*EVENTS, "Nothing")),
         "what": _words((*KINDS, *COVERS, "open water")),
         "where": _words((*CELLS, *LINE_PLACES)),
         "image": re.compile(r"<image_\d+>")}


def wrong_parts(answer: str, prediction: str) -> list[str]:
    """Which parts of a told series differ from the truth: event, what, where, image."""
    return [name for name, words in PARTS.items()
            if words.findall(answer) != words.findall(prediction)]


def weather_of(table: ImageTable, rows: tuple[int, ...]) -> str:
    """How a series was taken: with "clouds", over several "seasons", with "repeats", or "clear"."""
    taken = [table.truth.conditions[row] for row in rows]
    if any(each.cloud for each in taken):
        return "clouds"
    if len({each.season for each in taken}) > 1:
        return "seasons"
    return "repeats" if any(each.repeats for each in taken) else "clear"


def neighbours(table: ImageTable, rows: tuple[int, ...]) -> list[Recipe]:
    """What changed between each frame of a series and the next, as one question each."""
    return [Recipe((first, second), images_first(2, COMPARE_PROMPT),
                   describe_change(table.truth.scenes[first], table.truth.scenes[second]),
                   "compare") for first, second in zip(rows, rows[1:], strict=False)]


def all_pairs_right(model, processor, table: ImageTable, series: list[tuple[int, ...]]) -> float:
    """Share of series whose neighbouring frames the model compares rightly, all of them."""
    if not series:
        return float("nan")
    recipes = [recipe for rows in series for recipe in neighbours(table, rows)]
    owner = [k for k, rows in enumerate(series) for _ in rows[1:]]
    told = grade(predict(model, processor, TaskDataset(table, recipes)))
    return float(told["correct"].groupby(owner).all().mean())


def mistakes(model, processor, table: ImageTable, graded: pd.DataFrame) -> dict:
    """What is wrong with the answers about long series, and where: see the top of the file.

    graded: answers of `grade`, with a column rows.
    """
    long = graded[(graded["task"] == "sequence") & (graded["num_images"] >= FEWEST)]
    wrong = long[~long["correct"]]
    parts = Counter(part for row in wrong.itertuples()
                    for part in wrong_parts(row.answer, row.prediction))
    kinds = long["rows"].map(lambda rows: weather_of(table, rows))
    by_weather = long["correct"].groupby(kinds).agg(["size", "mean"])
    series = {name: list(dict.fromkeys(part["rows"])) for name, part in (
        ("wrong", wrong), ("right", long[long["correct"]].head(COMPARED)))}
    return {"series": len(long), "wrong": len(wrong),
            "parts": {name: parts[name] for name in PARTS},
            "weather": {name: {"series": int(row["size"]), "accuracy": round(row["mean"], 4)}
                        for name, row in by_weather.iterrows()},
            "pairs": {name: {"series": len(found), "all_right": round(
                all_pairs_right(model, processor, table, found), 4)}
                for name, found in series.items()}}


# --- a model -----------------------------------------------------------------------------------

def measure(folder: Path, split: str) -> dict:
    """What `time_model` measures of the model in a folder, with shorter series and names besides,
    and its mistakes. The questions about long series are the same ones."""
    model, processor = load_checkpoint(folder)
    figures = time_model.measure(model, processor, split)
    table = load_image_table(get_profile("tiny"), split)
    table.image_features = encode_table(table, model, processor)
    asked = build_tasks(table, SERIES, seed=1)
    graded = grade(predict(model, processor, asked))
    series = json.loads(summarise(graded).to_json(orient="records"))
    others = [row for row in figures["tasks"] if row["task"] != "sequence"]
    rows = [recipe.rows for recipe in asked.recipes]
    return figures | {"tasks": series + others, "mistakes": mistakes(
        model, processor, table, graded.assign(rows=rows))}


def train_once(start: Path, folder: Path, seed: int, steps: int | None) -> float:
    """The third training from the model in `start`, kept in `folder`; returns its minutes.

    Nothing is done if the model that lies there was made of the same things.
    """
    before = json.loads((start / "figures.json").read_text())["minutes"]
    made_of = json.loads(json.dumps({
        "start": hashlib.sha256((start / "model.safetensors").read_bytes()).hexdigest(),
        "seed": seed, "training": training(steps)}))
    kept = folder / MADE_OF
    if kept.is_file() and json.loads(kept.read_text()) == made_of:
        say(f"seed {seed}: trained before")
    else:
        time_model.make(folder, start, after=LAST, steps=steps, seed=seed)
        kept.write_text(json.dumps(made_of) + "\n")
    return round(json.loads((folder / "figures.json").read_text())["minutes"] - before, 1)


def training(steps: int | None) -> dict:
    """What the third training is made of: samples of each task, and settings."""
    plain, dated = time_model.TRAININGS[LAST]
    settings = vars(time_model.settings_of(LAST, steps, seed=0)) | {"seed": None}
    return {"plain": plain, "dated": dated, "weather": time_model.WEATHERS_OF[LAST],
            "places": time_model.MORE_PLACES, "orientations": time_model.MORE_ORIENTATIONS,
            "settings": settings}


# --- the table ---------------------------------------------------------------------------------

def tabulate(before: dict, after: list[dict]) -> pd.DataFrame:
    """Two rows for each task and number of images: before the training and after it."""
    def accuracies(measured: list[dict], arm: str) -> pd.DataFrame:
        return over_seeds([pd.DataFrame(each["tasks"]).assign(seed=seed)
                           for seed, each in enumerate(measured)]).assign(arm=arm)
    table = pd.concat([accuracies([before], "before"), accuracies(after, "after")])
    columns = ["arm", *KEY, "samples", "accuracy", "low", "high", "seeds", "prior", "invalid"]
    table = table[columns].astype({"samples": int}).assign(comparison="more frames")
    table = table.sort_values(KEY, kind="stable", ignore_index=True)
    return table.assign(differs=differing_arms(table))


def draw(table: pd.DataFrame):
    """Accuracy on series against their frames, before and after."""
    figure = new_figure(6.5, 3)
    axis = figure.subplots()
    for arm, colour in (("before", ORANGE), ("after", BLUE)):
        rows = table[(table["task"] == "sequence") & (table["arm"] == arm)]
        error = [(rows["accuracy"] - rows["low"]).clip(lower=0),
                 (rows["high"] - rows["accuracy"]).clip(lower=0)]
        axis.errorbar(rows["num_images"], rows["accuracy"], error, color=colour, marker="o",
                      capsize=3, label=arm)
    axis.set(xlabel="frames", ylabel="accuracy", xticks=list(rows["num_images"]))
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(fontsize=9, frameon=False)
    return figure


# --- the command -------------------------------------------------------------------------------

def report(options: argparse.Namespace, before: dict, after: list[dict], plot: Path) -> str:
    """The JSON line."""
    goals = ("boxes", "weather", "shuffled_dates", "mistakes")
    return json.dumps({
        "benchmark": "more_frames",
        "settings": {"seeds": options.seeds, "steps": options.steps, "split": options.split},
        "training": training(options.steps), "minutes": [each["minutes"] for each in after],
        "plot": plot.name, "machine": machine(get_device().type),
        "rows": json.loads(tabulate(before, after).round(4).to_json(orient="records")),
        "before": {name: before[name] for name in goals},
        "after": [{name: each[name] for name in goals} for each in after]})


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--start", type=Path, default=data_folder() / "tiny_vlm_time",
                        help="the model to start from (default: data/tiny_vlm_time, which has this "
                             "training behind it already)")
    parser.add_argument("--seeds", type=at_least_one, default=3, help="trainings (default: 3)")
    parser.add_argument("--steps", type=at_least_one, help="of each (default: as time_model)")
    parser.add_argument("--split", choices=("validation", "test"), default="test",
                        help="places to ask about; choices belong to validation (default: test)")
    parser.add_argument("--output", type=Path, help="a file for the JSON, besides the last line")
    options = parser.parse_args()
    if options.output and not options.output.parent.is_dir():
        parser.error(f"--output: there is no folder {options.output.parent}")
    if not (options.start / "figures.json").is_file():
        parser.error(f"--start: {options.start} holds no model with its figures.json")
    same_for_everyone()
    before, after = measure(options.start, options.split), []
    plot = plot_path("more_frames")
    for seed in range(options.seeds):           # so that a run cut short has whole seeds
        folder = output_folder() / "more_frames" / f"seed_{seed}"
        minutes = train_once(options.start, folder, seed, options.steps)
        after.append(measure(folder, options.split) | {"minutes": minutes})
        result = report(options, before, after, plot)
        if options.output:
            options.output.write_text(result + "\n")
    table = tabulate(before, after)
    print(table.round(3).to_string(index=False))
    draw(table).savefig(plot, dpi=110)
    print(result)


if __name__ == "__main__":
    main()
