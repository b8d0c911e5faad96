"""Many coarse frames or few fine ones? Accuracy against frames, at equal numbers of tokens.

    python benchmarks/frames.py --output benchmarks/frames.json

Three models differ in the tokens that they make of a frame: 1, 4 or 16 (patches merged 4 x 4, 2 x 2
or not at all). Each has the encoder and the language model of the trained model in data/ and a new
projector, and is trained, with several seeds: first on captions of one frame, until the language
model can read the new tokens, then on series of 1 to 16 frames. (With the base model's language
model, 250 steps of 64 series left the model of 4 tokens with the accuracy of a guess.) Then each is
asked what happens over series of 16 frames, of which it is shown k: those at the centres of equal
segments.

The true answer is that of the whole series. An answer names images, and a model can only name the
ones that it sees: so the truth names, for "the fire appears in frame 7", the first shown frame at
or after the seventh. With few frames, things come and go unseen, and no model can be right: `shown`
is the share of questions that the shown frames still answer. `prior` is the share of the commonest
true answer.

k x t are the image tokens of a prompt; each frame also costs one token for its name, which
`prompt_tokens` counts, with the question. At each budget every model is shown as many frames as
fit, at most 16: `budgets` lists them and names under `above` the models that each is better than,
by more than the 95% interval of the difference AND in every seed (see ablations.py).

Every test place of 16 frames is asked about forwards and backwards in time, in greedy decoding. A
plot goes to build/benchmarks/frames.png; the last line is JSON, which --output also writes to a
file. Bars go to stderr.
"""

from __future__ import annotations

import argparse
import json
import re
import time
from collections import Counter
from dataclasses import dataclass, replace
from functools import cache

import pandas as pd
from ablations import at_least_one, differs, renew_projector, tokens_of, training_table
from common import add_output, machine, plot_path, same_for_everyone, say
from learning import over_seeds

from vlm_utils.datasets import (
    ImageTable,
    Recipe,
    TaskDataset,
    build_tasks,
    images_first,
    load_image_table,
)
from vlm_utils.datasets.changes import SEQUENCE_PROMPT
from vlm_utils.evaluation import predict
from vlm_utils.loading import load_checkpoint
from vlm_utils.plots import IMAGE_COLOURS, new_figure
from vlm_utils.profiles import data_folder, get_device, get_profile
from vlm_utils.time_series import budget_frames, choose_frames
from vlm_utils.tiny_earth import describe_sequence
from vlm_utils.training import TrainingSettings, encode_table, start_run, train

LONGEST = 16                                    # frames of every series that is asked about
FRAMES = (1, 2, 3, 4, 6, 8, 12, 16)             # so many of them are shown
MERGE_FACTORS = {tokens_of(factor): factor for factor in (4, 2, 1)}     # of 1, 4, 16 tokens
BUDGETS = (4, 8, 16, 32, 64, 128)               # image tokens of a prompt
CAPTIONS, SERIES = "describe 1", f"sequence 1-{LONGEST}"
BATCH, WARMUP, LEARNING_RATE = 24, 50, 2e-3     # of both trainings


@dataclass(frozen=True)
class Question:
    """What happens over a whole series: its rows, and the true answer."""

    rows: tuple[int, ...]
    answer: str


# --- what is asked -----------------------------------------------------------------------------

def whole_series(table: ImageTable) -> list[Question]:
    """Every place with LONGEST frames, forwards and backwards in time."""
    sites = [tuple(rows) for rows in table.truth.sites if len(rows) == LONGEST]
    if not sites:
        raise ValueError(f"{table.name} has no place with {LONGEST} frames")
    return [Question(rows, describe_sequence([table.truth.scenes[row] for row in rows]))
            for forwards in sites for rows in (forwards, forwards[::-1])]


def in_shown_names(answer: str, chosen: list[int]) -> str:
    """The answer about a whole series, with the names that images have among the chosen ones.

    chosen: positions of the shown frames, from 0, increasing. An image becomes the first shown one
    at or after it; after the last, one that the model does not see.
    """
    def renamed(match: re.Match) -> str:
        frame = int(match[1]) - 1
        return f"<image_{1 + sum(position < frame for position in chosen)}>"
    return re.sub(r"<image_(\d+)>", renamed, answer)


def shown_frames(questions: list[Question], count: int) -> list[Recipe]:
    """The questions with `count` frames each, at the centres of equal segments of the series."""
    chosen = choose_frames(list(range(LONGEST)), LONGEST, count)
    return [Recipe(tuple(question.rows[k] for k in chosen), images_first(count, SEQUENCE_PROMPT),
                   in_shown_names(question.answer, chosen), "sequence")
            for question in questions]


def answered_by(recipes: list[Recipe], table: ImageTable) -> float:
    """Share of the questions whose true answer the shown frames still give."""
    told = [describe_sequence([table.truth.scenes[row] for row in r.rows]) for r in recipes]
    return sum(a == r.answer for a, r in zip(told, recipes, strict=True)) / len(recipes)


def commonest(recipes: list[Recipe]) -> float:
    """Share of the commonest true answer: what one gets without looking."""
    return Counter(recipe.answer for recipe in recipes).most_common(1)[0][1] / len(recipes)


# --- a run -------------------------------------------------------------------------------------

@cache
def encoded(split: str) -> ImageTable:
    """The images of a split, encoded once: all models have the base model's encoder."""
    model, processor = make_start(4, seed=0)
    table = training_table() if split == "train" else load_image_table(get_profile("tiny"), split)
    return replace(table, image_features=encode_table(table, model, processor))


def make_start(tokens: int, seed: int):
    """The trained model in data/ with a new projector for so many tokens per frame."""
    model, processor = load_checkpoint(data_folder() / get_profile("tiny").trained_model)
    renew_projector(model, MERGE_FACTORS[tokens], seed)
    processor.tokens_per_image = model.config.tokens_per_image
    return model, processor


def settings_of(steps: int, seed: int) -> TrainingSettings:
    return TrainingSettings.of(
        get_profile("tiny"), steps=steps, seed=seed, batch_size=BATCH, checkpoint_every=0,
        learning_rate=LEARNING_RATE, warmup_steps=min(WARMUP, steps))


def train_and_measure(tokens: int, seed: int, steps: dict[str, int], split: str) -> pd.DataFrame:
    """The trainings of one model, one after the other, and its accuracy for each number of frames.

    steps: of each training, by what it trains on.
    """
    model, processor = make_start(tokens, seed)
    for mixture, number in steps.items():
        settings = settings_of(number, seed)
        dataset = build_tasks(encoded("train"), {mixture: number * settings.batch_size}, seed=seed)
        train(start_run(model, processor, dataset, settings))
    return measure(model, processor, encoded(split)).assign(seed=seed)


def measure(model, processor, table: ImageTable) -> pd.DataFrame:
    """A row for each number of frames, with what the shown frames and a guess could reach."""
    questions, rows = whole_series(table), []
    for count in FRAMES:
        recipes = shown_frames(questions, count)
        told = predict(model, processor, TaskDataset(table, recipes))
        rows.append({
            "task": "sequence", "num_images": count, "samples": len(recipes),
            "accuracy": (told["prediction"] == told["answer"]).mean(),
            "shown": answered_by(recipes, table), "prior": commonest(recipes),
            "prompt_tokens": len(processor.encode_prompt(recipes[0].prompt, count))})
    return pd.DataFrame(rows)


# --- the table ---------------------------------------------------------------------------------

def tabulate(results: dict[int, list[pd.DataFrame]]) -> pd.DataFrame:
    """One row for each number of tokens per frame and number of frames, over all seeds."""
    parts = []
    for tokens, tables in results.items():
        part = over_seeds(tables).rename(columns={"num_images": "frames"}).drop(columns="task")
        part.insert(0, "tokens", tokens)
        part.insert(2, "image_tokens", tokens * part["frames"])
        parts.append(part)
    table = pd.concat(parts, ignore_index=True)
    return table.astype({"samples": int, "prompt_tokens": int})


def at_budget(table: pd.DataFrame, budget: int) -> list[dict]:
    """Every model with as many frames as fit into that many image tokens, at most LONGEST.

    A model whose single frame does not fit is left out. above: the tokens per frame of the models
    that it is better than, by more than the 95% interval of the difference and in every seed.
    """
    rows = []
    for tokens in sorted(set(table["tokens"][table["tokens"] <= budget])):
        fitting = table[(table["tokens"] == tokens)
                        & (table["frames"] <= min(LONGEST, budget_frames(budget, int(tokens))))]
        rows.append(fitting.loc[fitting["frames"].idxmax()])
    return [{"budget": budget, "tokens": int(row.tokens), "frames": int(row.frames),
             "accuracy": round(float(row.accuracy), 4),
             "above": [int(other.tokens) for other in rows
                       if row.accuracy > other.accuracy and differs(row, other)]}
            for row in rows]


def draw(table: pd.DataFrame):
    """Accuracy against frames, and against image tokens: a line per number of tokens per frame."""
    figure = new_figure(10, 3.6)
    for axis, column in zip(figure.subplots(1, 2, sharey=True), ("frames", "image_tokens"),
                            strict=True):
        for (tokens, rows), colour, marker in zip(table.groupby("tokens"), IMAGE_COLOURS, "os^",
                                                  strict=False):
            error = [(rows["accuracy"] - rows["low"]).clip(lower=0),
                     (rows["high"] - rows["accuracy"]).clip(lower=0)]
            axis.errorbar(rows[column], rows["accuracy"], error, color=colour, marker=marker,
                          capsize=2, label=f"{tokens} per frame")
        axis.set(xlabel=column.replace("_", " "), ylim=(-0.02, 1.02))
        axis.spines[["top", "right"]].set_visible(False)
        axis.legend(fontsize=8, frameon=False)
        if column == "image_tokens":
            axis.set_xscale("log", base=2)
            for budget in BUDGETS:
                axis.axvline(budget, color="0.8", linewidth=0.8, zorder=0)
    figure.axes[0].plot(rows["frames"], rows["shown"], "k--", linewidth=1)
    figure.axes[0].set_ylabel("accuracy")
    return figure


# --- the command -------------------------------------------------------------------------------

def parse_tokens(text: str) -> list[int]:
    """[1, 16] of "1,16"."""
    found = []
    for name in text.split(","):
        if not name.strip().isdecimal() or int(name) not in MERGE_FACTORS:
            raise argparse.ArgumentTypeError(
                f"{name.strip()!r} is none of {', '.join(map(str, MERGE_FACTORS))}")
        found.append(int(name))
    return list(dict.fromkeys(found))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=at_least_one, default=3,
                        help="trainings of each model (default: 3)")
    for name, default, text in (("captions", 1200, "captions of one frame, to begin with"),
                                ("series", 500, "series, after that")):
        parser.add_argument(f"--{name}", type=at_least_one, default=default, metavar="STEPS",
                            help=f"steps of training on {text} (default: {default})")
    parser.add_argument("--split", choices=("validation", "test"), default="test",
                        help="places to ask about; choices belong to validation (default: test)")
    parser.add_argument("--only", type=parse_tokens, default=list(MERGE_FACTORS),
                        metavar="N,N", help="tokens per frame (default: 1,4,16)")
    add_output(parser)
    options = parser.parse_args()
    same_for_everyone()
    started = time.perf_counter()
    steps = {CAPTIONS: options.captions, SERIES: options.series}
    results: dict[int, list[pd.DataFrame]] = {tokens: [] for tokens in options.only}
    for seed in range(options.seeds):           # so that a run cut short has whole seeds
        for tokens in options.only:
            begun = time.perf_counter()
            found = train_and_measure(tokens, seed, steps, options.split)
            results[tokens].append(found)
            say(f"{tokens} tokens per frame, seed {seed}, {time.perf_counter() - begun:.0f} s: "
                + ", ".join(f"{row.num_images} frames {row.accuracy:.3f}"
                            for row in found.itertuples()))
    table = tabulate(results)
    budgets = [row for budget in BUDGETS for row in at_budget(table, budget)]
    print(table.round(3).to_string(index=False))
    print(pd.DataFrame(budgets).to_string(index=False))
    plot = plot_path("frames")
    draw(table).savefig(plot, dpi=110)
    settings = {name: value for name, value in vars(options).items() if name != "output"}
    result = json.dumps({
        "benchmark": "frames", "settings": settings,
        "training": {name: vars(settings_of(number, 0)) for name, number in steps.items()},
        "plot": plot.name, "machine": machine(get_device().type),
        "seconds": round(time.perf_counter() - started),
        "rows": json.loads(table.round(4).to_json(orient="records")), "budgets": budgets})
    print(result)
    if options.output:
        options.output.write_text(result + "\n")


if __name__ == "__main__":
    main()
