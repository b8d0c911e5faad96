"""What does each part of the course's model do? One change at a time, seeds, intervals.

    python benchmarks/ablations.py --seeds 3                     every comparison
    python benchmarks/ablations.py --only identifiers,layout     some of them

identifiers   name each image after it, before it, or not at all
layout        images where the prompt puts them, or all in front; the prompts differ only where
              text stands before an image, which is in a part of the refer questions
tokens        patches merged 2 x 2 as ever, not at all, or 4 x 4
padding       samples of two images as they are, or with a zero image behind them that is attended,
              in training and in testing (collate.fill_with_black_images)
encoder       pretrained, or one ViT of random weights, frozen as well
images        trained on samples of up to 3 images or of up to 8, as many samples of either

Each arm starts from the base model in data/ and takes lesson 04's mixture and settings, with fewer
steps. Of the mixture only as many samples are made as these steps see, its shares kept. The base's
projector fits its own merge factor and its own encoder: in the comparisons of tokens and encoder
EVERY arm starts with a new projector, the usual factor and the pretrained encoder too. The language
model keeps what it has learnt with both. Equal setups of several comparisons are trained once.

Measured on test places, greedy decoding. Intervals are those of learning.py: of the questions, not
of the trainings, so every seed's accuracy stands beside them. `differs` names the arms of the same
comparison from whose accuracy a row differs by more than the 95% interval of the difference AND in
every seed: the lowest of one arm is above the highest of the other.
A plot goes to build/benchmarks/ablations.png; the last line is JSON, which --output also writes to
a file, once all runs are done. Bars go to stderr.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache, partial

import pandas as pd
import torch
from common import add_output, machine, plot_path, same_for_everyone, say
from learning import KEY, LESSON_TASKS, over_seeds, test_questions
from PIL import Image
from torch import Tensor
from transformers import ViTConfig, ViTModel

from vlm_utils.architecture import (
    IDENTIFIERS,
    IMAGE_TOKEN,
    LAYOUTS,
    MultiImageProcessor,
    MultiImageVLM,
    Projector,
)
from vlm_utils.datasets import (
    ImageTable,
    TaskDataset,
    add_orientations,
    build_tasks,
    load_image_table,
)
from vlm_utils.evaluation import grade, predict, summarise
from vlm_utils.loading import load_base_model
from vlm_utils.making.vision_pretraining import MERGE, PATCH, SIDE
from vlm_utils.plots import IMAGE_COLOURS, new_figure
from vlm_utils.profiles import get_device, get_profile
from vlm_utils.training import TrainingSettings, encode_table, start_run, train

ENCODER_SEED = 0  # one random encoder for all seeds: its images are encoded once
FEWEST = {"select": 2, "sequence": 2, "refer": 1}  # images; the other tasks have a fixed number


@dataclass(frozen=True)
class Setup:
    """What one arm trains; the defaults are lesson 04's. most_images: 0 for its mixture."""

    identifiers: str = "after"
    layout: str = "interleaved"
    merge_factor: int = MERGE
    new_projector: bool = False
    random_encoder: bool = False
    padded: bool = False
    most_images: int = 0

    @property
    def tasks(self) -> tuple[str, ...]:
        """What is measured."""
        return ("select 2", "select 3", "select 8") if self.most_images else LESSON_TASKS


def tokens_of(merge_factor: int) -> int:
    """Tokens of an image of the base model."""
    return (SIDE // PATCH // merge_factor) ** 2


COMPARISONS: dict[str, dict[str, Setup]] = {
    "identifiers": {name: Setup(identifiers=name) for name in IDENTIFIERS},
    "layout": {name: Setup(layout=name) for name in LAYOUTS},
    "tokens": {str(tokens_of(factor)): Setup(merge_factor=factor, new_projector=True)
               for factor in (MERGE, *sorted({1, 2, 4} - {MERGE}))},
    "padding": {"absent": Setup(), "attended": Setup(padded=True)},
    "encoder": {"pretrained": Setup(new_projector=True),
                "random": Setup(new_projector=True, random_encoder=True)},
    "images": {f"up to {most}": Setup(most_images=most) for most in (3, 8)},
}


# --- an arm: its model and its samples ---------------------------------------------------------

def make_model(setup: Setup, seed: int) -> tuple[MultiImageVLM, MultiImageProcessor]:
    """The base model and its processor, changed as the setup says."""
    model, processor = load_base_model(get_profile("tiny"), identifiers=setup.identifiers,
                                       layout=setup.layout)
    if setup.random_encoder:
        model.vision_encoder = random_encoder(model.config.vision_config).to(model.device)
        model.freeze_vision_encoder()
    if setup.new_projector:
        renew_projector(model, setup.merge_factor, seed)
    processor.tokens_per_image = model.config.tokens_per_image
    return model, processor


def random_encoder(config: ViTConfig, seed: int = ENCODER_SEED) -> ViTModel:
    """A vision encoder that has learnt nothing, the same one for the same seed."""
    torch.manual_seed(seed)
    return ViTModel(config, add_pooling_layer=False).eval()


def renew_projector(model: MultiImageVLM, merge_factor: int, seed: int) -> None:
    """A new projector for that merge factor, as join_parts makes it."""
    config = model.config
    config.merge_factor = merge_factor
    torch.manual_seed(seed)
    projector = Projector(config.vision_config.hidden_size, config.text_config.hidden_size,
                          merge_factor)
    projector.match_scale(model.get_input_embeddings().weight)
    model.projector = projector.to(model.device, model.dtype).eval()


def up_to(mixture: dict[str, int], most: int) -> dict[str, int]:
    """As many samples of each task, evenly of every number of images up to `most`."""
    result: dict[str, int] = {}
    for name, count in mixture.items():
        task = name.split()[0]
        name = f"{task} {FEWEST[task]}-{most}" if task in FEWEST else name
        result[name] = result.get(name, 0) + count
    return result


def training_mixture(mixture: dict[str, int], most_images: int, samples: int) -> dict[str, int]:
    """The setup's mixture with at least so many samples in all, and few more; shares are kept."""
    if most_images:
        mixture = up_to(mixture, most_images)
    share = min(1, samples / sum(mixture.values()))
    return {name: math.ceil(share * count) for name, count in mixture.items()}


class WithZeroImage:
    """A feature table with one more row, the last: a zero image, encoded."""

    def __init__(self, features, zero: Tensor):
        self.features, self.zero = features, zero           # zero: (patches, vision_dim)

    def __len__(self) -> int:
        return len(self.features) + 1

    def __getitem__(self, rows: list[int]) -> Tensor:
        is_zero = torch.tensor(rows) == len(self.features)
        found = self.features[[0 if zero else row
                               for row, zero in zip(rows, is_zero.tolist(), strict=True)]]
        found[is_zero] = self.zero.to(found.dtype)
        return found


def pad_pairs(dataset: TaskDataset, model: MultiImageVLM,
              processor: MultiImageProcessor) -> TaskDataset:
    """Samples of two images with a zero image behind them, where fill_with_black_images puts it.

    Done to the recipes: tokeniser and collate then treat it as any other image, attended and named.
    """
    pixels = processor.pixel_values([Image.new("RGB", dataset.table.image(0).size)])
    with torch.no_grad():
        zero = model.encode_images(pixels.to(model.device))[0].cpu()
    features, recipes = dataset.table.image_features, []
    for recipe in dataset.recipes:
        if len(recipe.rows) == 2:
            end = recipe.prompt.rindex(IMAGE_TOKEN) + len(IMAGE_TOKEN)
            recipe = replace(recipe, rows=(*recipe.rows, len(features)),
                             prompt=recipe.prompt[:end] + IMAGE_TOKEN + recipe.prompt[end:])
        recipes.append(recipe)
    table = replace(dataset.table, image_features=WithZeroImage(features, zero))
    return replace(dataset, recipes=recipes, table=table)


# --- a run -------------------------------------------------------------------------------------

@cache
def training_table() -> ImageTable:
    profile = get_profile("tiny")
    return add_orientations(load_image_table(profile, "train"), profile.orientations)


def train_and_measure(setup: Setup, seed: int, steps: int, samples: int) -> pd.DataFrame:
    """One training and its accuracy for each task and number of images."""
    profile, table = get_profile("tiny"), training_table()
    settings = TrainingSettings.of(profile, steps=steps, seed=seed)
    model, processor = make_model(setup, seed)
    mixture = training_mixture(profile.mixture, setup.most_images,
                               steps * settings.batch_size * settings.accumulation)
    table = replace(table, image_features=encode_table(table, model, processor))
    dataset = build_tasks(table, mixture, seed=seed)
    if setup.padded:
        dataset = pad_pairs(dataset, model, processor)
    train(start_run(model, processor, dataset, settings))
    questions = test_questions(setup.tasks, samples, model, processor)
    return measure(model, processor, questions, setup.padded).assign(seed=seed)


def measure(model: MultiImageVLM, processor: MultiImageProcessor, questions: TaskDataset,
            padded: bool = False) -> pd.DataFrame:
    """Accuracy for each task and number of images; a zero image does not count as one."""
    shown = pad_pairs(questions, model, processor) if padded else questions
    predictions = predict(model, processor, shown)
    predictions["num_images"] = [len(recipe.rows) for recipe in questions.recipes]
    return summarise(grade(predictions))[[*KEY, "samples", "accuracy"]]


# --- the table ---------------------------------------------------------------------------------

def tabulate(chosen: list[str], results: dict[Setup, list[pd.DataFrame]]) -> pd.DataFrame:
    """One row for each comparison, arm, task and number of images, over all seeds."""
    parts = []
    for comparison in chosen:
        for arm, setup in COMPARISONS[comparison].items():
            part = over_seeds(results[setup])
            part.insert(0, "comparison", comparison)
            part.insert(1, "arm", arm)
            parts.append(part)
    table = pd.concat(parts, ignore_index=True)
    table["samples"] = table["samples"].astype(int)
    return table.assign(differs=differing_arms(table))


def differing_arms(table: pd.DataFrame) -> list[list[str]]:
    """For each row, the arms of its comparison that differ from it in this task and number."""
    found = []
    for row in table.itertuples():
        same = (table["comparison"] == row.comparison) & (table["task"] == row.task) & (
            table["num_images"] == row.num_images)
        found.append([other.arm for other in table[same].itertuples() if differs(row, other)])
    return found


def differs(first, second) -> bool:
    """Is the difference larger than its 95% interval, and the same way round in every seed?

    The interval is made of both Wilson intervals (Newcombe 1998, method 10). It knows of questions
    only. Equal trainings differ too, hence the seeds: of two equal arms with three each, all of one
    lie above all of the other in one case of ten.
    """
    if first.accuracy < second.accuracy:
        first, second = second, first
    margin = math.hypot(first.accuracy - first.low, second.high - second.accuracy)
    return first.accuracy - second.accuracy > margin and min(first.seeds) > max(second.seeds)


def draw(table: pd.DataFrame):
    """A panel for each comparison: every task's accuracy with its interval, an arm a colour."""
    comparisons = list(table["comparison"].unique())
    lines = math.ceil(len(comparisons) / 2)
    figure = new_figure(12, 3.2 * lines)
    axes = figure.subplots(lines, 2, squeeze=False).flatten()
    for axis, comparison in zip(axes, comparisons, strict=False):
        rows = table[table["comparison"] == comparison]
        arms = list(rows["arm"].unique())
        for k, arm in enumerate(arms):
            part = rows[rows["arm"] == arm]
            places = [i + 0.2 * (k - (len(arms) - 1) / 2) for i in range(len(part))]
            below = (part["accuracy"] - part["low"]).clip(lower=0)
            above = (part["high"] - part["accuracy"]).clip(lower=0)
            axis.errorbar(places, part["accuracy"], [below, above], fmt="os^"[k], markersize=4,
                          color=IMAGE_COLOURS[k], label=arm, linewidth=1)
        axis.set(title=comparison, ylim=(-0.02, 1.02), ylabel="accuracy",
                 xticks=range(len(part)),
                 xticklabels=[f"{row.task}\n{row.num_images}" for row in part.itertuples()])
        axis.tick_params(axis="x", labelsize=8)
        axis.spines[["top", "right"]].set_visible(False)
        axis.legend(fontsize=8, frameon=False, ncols=len(arms))
    for axis in axes[len(comparisons):]:
        axis.set_visible(False)
    return figure


# --- the command -------------------------------------------------------------------------------

def parse_options(description: str, comparisons: Sequence[str], steps: int, samples: int,
                  left_out: Sequence[str] = ()) -> argparse.Namespace:
    """Which comparisons to train, how often and how long. left_out: those that must be named."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default, text in (
            ("seeds", 3, "trainings of each arm"), ("steps", steps, "steps of each training"),
            ("samples", samples, "test questions of each task and number of images")):
        parser.add_argument(f"--{name}", type=at_least_one, default=default,
                            help=f"{text} (default: {default})")
    parser.add_argument("--only", type=partial(parse_comparisons, known=comparisons),
                        default=[name for name in comparisons if name not in left_out],
                        metavar="NAME,NAME", help=f"some of {', '.join(comparisons)}"
                        + f" (default: all but {', '.join(left_out)})" * bool(left_out))
    add_output(parser)
    options = parser.parse_args()
    return options


def parse_comparisons(text: str, known: Sequence[str]) -> list[str]:
    """["identifiers", "layout"] of "identifiers,layout"."""
    names = list(dict.fromkeys(name.strip() for name in text.split(",")))
    for name in names:
        if name not in known:
            raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join(known)}")
    return names


def at_least_one(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"a whole number of at least 1, not {text!r}")
    return int(text)


def setups_of(chosen: list[str]) -> dict[Setup, str]:
    """The different setups of some comparisons, each with a name to show."""
    names: dict[Setup, list[str]] = {}
    for comparison in chosen:
        for arm, setup in COMPARISONS[comparison].items():
            names.setdefault(setup, []).append(f"{comparison} {arm}")
    return {setup: " = ".join(each) for setup, each in names.items()}


def main() -> None:
    options = parse_options(__doc__, list(COMPARISONS), steps=600, samples=300)
    same_for_everyone()
    started = time.perf_counter()
    setups = setups_of(options.only)
    results: dict[Setup, list[pd.DataFrame]] = {setup: [] for setup in setups}
    for number, (setup, seed) in enumerate(
            ((setup, seed) for setup in setups for seed in range(options.seeds)), start=1):
        begun = time.perf_counter()
        results[setup].append(
            train_and_measure(setup, seed, options.steps, options.samples))
        say(f"run {number} of {len(setups) * options.seeds}: {setups[setup]}, seed {seed}, "
            f"{time.perf_counter() - begun:.0f} s")
    table = tabulate(options.only, results)
    shown = table.assign(differs=table["differs"].map(", ".join))
    print(shown.round(3).to_string(index=False))
    plot = plot_path("ablations")
    draw(table).savefig(plot, dpi=110)
    training = TrainingSettings.of(get_profile("tiny"), steps=options.steps)
    settings = {name: value for name, value in vars(options).items() if name != "output"}
    result = json.dumps({
        "benchmark": "ablations", "settings": settings,
        "training": {k: v for k, v in vars(training).items() if k != "seed"},
        "plot": plot.name, "machine": machine(get_device().type),
        "seconds": round(time.perf_counter() - started),
        "rows": json.loads(table.round(4).to_json(orient="records"))})
    print(result)
    if options.output:
        options.output.write_text(result + "\n")


if __name__ == "__main__":
    main()
