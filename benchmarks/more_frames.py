"""More frames: what more training on long series brings with 8 to 16 frames, and loses on fewer.

    python benchmarks/more_frames.py --start data/tiny_vlm_time --output benchmarks/more_frames.json

before     a model to start from: that of lesson 07 after its two trainings
after      trained further, with several seeds: see LONG_PLAIN in `making/time_model.py`
averaged   the mean of the weights before and of two seeds after, for each pair of seeds

Asked of each: what happens over 2 to 16 frames, the short tasks, when, dates, boxes, and changes
that are reported although only light, cloud or season differ.

`mistakes` says what is wrong with answers about series of 8 frames and more. `parts`: what happened
(event), to which thing (what), at which place (where), in which image (image); an answer may be
wrong in several. `wrong_places`: on how many of the places asked about there is a mistake.
`weather`: the accuracy by how the frames were taken. `pairs`: the same model is asked about each
two neighbouring frames of the series that it tells wrongly, and of some that it tells rightly: of
how many does it compare all pairs rightly? What it does not see in two frames it does not see in
sixteen either, whatever it pays attention to.

Few places have many frames (83 of the test split have 16), and a model that misreads one of them is
wrong in most questions about it. So `drawn` holds the accuracies on 500 further places, drawn for
this benchmark and never trained on.

Each seed's model stays in build/more_frames/, so a run that was cut short goes on where it was; a
model of other settings is made again. The interval is that of one run's questions: the seeds answer
the same ones. `differs` is that of ablations.py. A plot goes to build/benchmarks/more_frames.png;
the last line is JSON, which --output also writes to a file.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import time
from collections import Counter
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

import pandas as pd
from ablations import at_least_one, differing_arms
from common import add_output, machine, plot_path, same_for_everyone, say
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
from vlm_utils.evaluation import evaluate, grade, predict, summarise
from vlm_utils.loading import load_checkpoint
from vlm_utils.making import time_model
from vlm_utils.making.more_places import more_series
from vlm_utils.plots import IMAGE_COLOURS, new_figure
from vlm_utils.profiles import get_device, get_profile, output_folder
from vlm_utils.tiny_earth import KINDS, describe_change
from vlm_utils.tiny_earth.scenes import CELLS, COVERS, LINE_PLACES
from vlm_utils.training import encode_table

# Series of 8, 12 and 16 frames first, as in time_model: the same draws.
SERIES = {f"sequence {frames}": 500 for frames in (8, 12, 16, 2, 3, 4)} | {"refer 3": 500}
DRAWN, DRAWN_SERIES = 500, {f"sequence {frames}": 600 for frames in (8, 12, 16)}
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
    places = [{table.truth.site_of(rows[0]) for rows in part["rows"]} for part in (long, wrong)]
    series = {name: list(dict.fromkeys(part["rows"])) for name, part in (
        ("wrong", wrong), ("right", long[long["correct"]].head(COMPARED)))}
    return {"series": len(long), "wrong": len(wrong),
            "places": len(places[0]), "wrong_places": len(places[1]),
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
        model, processor, table, graded.assign(rows=rows)),
        "drawn": measure_drawn(model, processor)}


def measure_drawn(model, processor) -> list[dict]:
    """Accuracy on long series of further places."""
    table = more_series(DRAWN, "validation")
    table.image_features = encode_table(table, model, processor)
    told = evaluate(model, processor, build_tasks(table, DRAWN_SERIES, seed=1))
    return json.loads(told.to_json(orient="records"))


def train_once(start: Path, folder: Path, seed: int, steps: int | None) -> float:
    """Go on from the model in `start`; the result is kept in `folder`. Returns the minutes.

    Nothing is done if the model that lies there was made of the same things.
    """
    made_of = json.loads(json.dumps({
        "start": hashlib.sha256((start / "model.safetensors").read_bytes()).hexdigest(),
        "seed": seed, "training": training(steps)}))
    kept = folder / MADE_OF
    if kept.is_file():
        found = json.loads(kept.read_text())
        if found["made_of"] == made_of:
            say(f"seed {seed}: trained before")
            return found["minutes"]
    begun = time.perf_counter()
    model, processor = load_checkpoint(start)
    time_model.train_on_long_series(model, processor, seed, **limit(steps))
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    minutes = round((time.perf_counter() - begun) / 60, 1)
    kept.write_text(json.dumps({"made_of": made_of, "minutes": minutes}) + "\n")
    return minutes


def limit(steps: int | None) -> dict[str, int]:
    return {} if steps is None else {"steps": steps}


def training(steps: int | None) -> dict:
    """What the training is made of: samples of each task, places, and settings."""
    settings = vars(time_model.long_settings(0, **limit(steps))) | {"seed": None}
    return {"plain": time_model.LONG_PLAIN, "dated": time_model.LONG_DATED,
            "weather": time_model.LONG_WEATHERS, "places": time_model.LONG_PLACES,
            "orientations": time_model.LONG_ORIENTATIONS, "settings": settings}


def averaged(start: Path, folders: Sequence[Path], into: Path) -> Path:
    """The mean of the weights in some folders and of those that they started from, saved."""
    models = [load_checkpoint(folder)[0] for folder in (start, *folders)]
    time_model.average_weights(models).save_pretrained(into)
    load_checkpoint(start)[1].save_pretrained(into)
    return into


# --- the table ---------------------------------------------------------------------------------

def tabulate(measured: dict[str, list[dict]], which: str = "tasks") -> pd.DataFrame:
    """A row for each task, number of images and arm: what was measured of its models.

    measured: of each arm, one dict for each model. which: "tasks", or "drawn" for further places.
    """
    table = pd.concat([
        over_seeds([pd.DataFrame(each[which]).assign(seed=seed)
                    for seed, each in enumerate(models)]).assign(arm=arm)
        for arm, models in measured.items() if models])
    columns = ["arm", *KEY, "samples", "accuracy", "low", "high", "seeds", "prior", "invalid"]
    table = table[columns].astype({"samples": int}).assign(comparison="more frames")
    table = table.sort_values(KEY, kind="stable", ignore_index=True)
    return table.assign(differs=differing_arms(table))


def draw(table: pd.DataFrame):
    """Accuracy on series against their frames, a line for each arm."""
    figure = new_figure(6.5, 3)
    axis = figure.subplots()
    for arm, colour in zip(table["arm"].unique(), IMAGE_COLOURS, strict=False):
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

def report(options: argparse.Namespace, measured: dict[str, list[dict]], minutes: list[float],
           plot: Path) -> str:
    """The JSON line."""
    goals = ("boxes", "weather", "shuffled_dates", "mistakes")
    return json.dumps({
        "benchmark": "more_frames",
        "settings": {"seeds": options.seeds, "steps": options.steps, "split": options.split},
        "training": training(options.steps), "minutes": minutes, "plot": plot.name,
        "machine": machine(get_device().type),
        "rows": json.loads(tabulate(measured).round(4).to_json(orient="records")),
        "drawn": json.loads(tabulate(measured, "drawn").round(4).to_json(orient="records")),
        **{arm: [{name: each[name] for name in goals} for each in models]
           for arm, models in measured.items()}})


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--start", type=Path, required=True, help="the model to start from")
    parser.add_argument("--seeds", type=at_least_one, default=3, help="trainings (default: 3)")
    parser.add_argument("--steps", type=at_least_one, help="of each (default: 1,200)")
    parser.add_argument("--split", choices=("validation", "test"), default="test",
                        help="places to ask about; choices belong to validation (default: test)")
    add_output(parser)
    options = parser.parse_args()
    if options.seeds < len(time_model.AVERAGED_SEEDS):
        parser.error(f"--seeds: at least {len(time_model.AVERAGED_SEEDS)}, which are averaged")
    if not (options.start / "model.safetensors").is_file():
        parser.error(f"--start: {options.start} holds no model")
    same_for_everyone()
    measured: dict[str, list[dict]] = {"before": [measure(options.start, options.split)],
                                       "after": [], "averaged": []}
    plot, kept, minutes = plot_path("more_frames"), output_folder() / "more_frames", []
    folders = [kept / f"seed_{seed}" for seed in range(options.seeds)]
    for seed, folder in enumerate(folders):
        minutes.append(train_once(options.start, folder, seed, options.steps))
    for folder in folders:
        measured["after"].append(measure(folder, options.split))
    for pair in combinations(range(options.seeds), len(time_model.AVERAGED_SEEDS)):
        into = kept / f"averaged_{'_'.join(map(str, pair))}"
        averaged(options.start, [folders[seed] for seed in pair], into)
        measured["averaged"].append(measure(into, options.split))
    for which in ("tasks", "drawn"):
        print(tabulate(measured, which).round(3).to_string(index=False))
    draw(tabulate(measured)).savefig(plot, dpi=110)
    result = report(options, measured, minutes, plot)
    print(result)
    if options.output:
        options.output.write_text(result + "\n")


if __name__ == "__main__":
    main()
