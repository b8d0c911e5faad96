"""Lesson 05: measuring whether the model uses its images, with intervals and controls."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pandas as pd
import torch
from scipy.stats import binomtest

from vlm_utils import tasks
from vlm_utils.architecture import MultiImageVLM
from vlm_utils.collate import collate_multi_image
from vlm_utils.datasets import TaskDataset
from vlm_utils.processor import MultiImageProcessor, identifier

_IDENTIFIER = re.compile(r"<image_(\d+)>")


@torch.inference_mode()
def predict(model: MultiImageVLM, processor: MultiImageProcessor, dataset: TaskDataset,
            batch_size: int = 128, max_new_tokens: int = 48, **generation) -> pd.DataFrame:
    """The model's answer to every sample, greedy unless told: one row per sample, in order.

    Columns: task, num_images, prompt, answer (the truth), prediction. Samples of similar length
    are batched together. generation: arguments of `generate`, as do_sample and temperature.
    """
    model.eval()
    recipes = dataset.recipes
    order = sorted(range(len(recipes)), key=lambda i: (len(recipes[i].rows),
                                                       len(recipes[i].prompt)))
    predictions: dict[int, str] = {}
    for start in range(0, len(order), batch_size):
        chosen = order[start:start + batch_size]
        batch = collate_multi_image([dataset[i] for i in chosen], processor, for_generation=True)
        ids = model.generate(
            **{name: values.to(model.device) for name, values in batch.items()},
            **({"do_sample": False} | generation), max_new_tokens=max_new_tokens,
            pad_token_id=processor.pad_token_id)
        predictions |= {i: processor.decode(row) for i, row in zip(chosen, ids, strict=True)}
    return pd.DataFrame({
        "task": [r.task for r in recipes], "num_images": [len(r.rows) for r in recipes],
        "prompt": [r.prompt for r in recipes], "answer": [r.answer for r in recipes],
        "prediction": [predictions[i] for i in range(len(recipes))]})


def parse_choice(text: str, num_images: int) -> int | None:
    """The number k of the one image that an answer names, or None: none, several, or no such."""
    named = {int(k) for k in _IDENTIFIER.findall(text)}
    if len(named) != 1:
        return None
    k = named.pop()
    return k if 1 <= k <= num_images else None


def grade(predictions: pd.DataFrame) -> pd.DataFrame:
    """Add `valid` and `correct` to predictions. What cannot be parsed stays, and is wrong.

    A selection is valid if it names exactly one of the images; any other answer if it has the
    form of its task's true answers (`tasks.is_answer`). Correct: the same image, or the same text.
    Raises ValueError where a sample has no true answer to compare with.
    """
    unknown = predictions["answer"].isna()
    if unknown.any():
        raise ValueError(f"sample {int(unknown.idxmax())} has no true answer: only captioned "
                         "images and TinyEarth can be graded")
    valid, correct = [], []
    for row in predictions.itertuples():
        if row.task == "select":
            choice = parse_choice(row.prediction, row.num_images)
            valid.append(choice is not None)
            correct.append(choice is not None and identifier(choice) == row.answer)
        else:
            valid.append(tasks.is_answer(row.task, row.prediction, like=row.answer))
            correct.append(row.prediction == row.answer)
    return predictions.assign(valid=valid, correct=correct)


def wilson_interval(correct: int, total: int, confidence: float = 0.95) -> tuple[float, float]:
    """Where the true accuracy lies, from `correct` of `total` (Wilson 1927), as shares."""
    if not 0 <= correct <= total or total == 0:
        raise ValueError(f"{correct} correct of {total} is no share")
    interval = binomtest(int(correct), int(total)).proportion_ci(confidence, method="wilson")
    return float(interval.low), float(interval.high)


def summarise(graded: pd.DataFrame) -> pd.DataFrame:
    """Accuracy for each task and number of images, beside what guessing would score.

    chance: one of N for a selection. prior: always giving the commonest answer of these samples.
    low, high: the 95% Wilson interval. invalid: share of answers that cannot be parsed.
    """
    rows = []
    for (task, num_images), group in graded.groupby(["task", "num_images"], sort=True):
        low, high = wilson_interval(group["correct"].sum(), len(group))
        rows.append({
            "task": task, "num_images": num_images, "samples": len(group),
            "accuracy": group["correct"].mean(), "low": low, "high": high,
            "chance": 1 / num_images if task == "select" else np.nan,
            "prior": group["answer"].value_counts(normalize=True).iloc[0],
            "invalid": 1 - group["valid"].mean()})
    return pd.DataFrame(rows)


def evaluate(model: MultiImageVLM, processor: MultiImageProcessor, dataset: TaskDataset,
             **options) -> pd.DataFrame:
    """predict, grade and summarise in one call."""
    return summarise(grade(predict(model, processor, dataset, **options)))


# --- controls: the same questions, with something taken away ---------------------------------

def blind(dataset: TaskDataset) -> TaskDataset:
    """Every image replaced by the mean of all: what can be answered without seeing?"""
    mean = dataset.features[list(range(len(dataset.features)))].float().mean(dim=0)
    return replace(dataset, features=_Everywhere(mean))


def shuffled(dataset: TaskDataset, seed: int = 0) -> TaskDataset:
    """The images of another sample of the same task and number of images; answers stay.

    Raises ValueError where a sample is the only one of its task and number of images.
    """
    rng = np.random.default_rng(seed)
    recipes = list(dataset.recipes)
    groups: dict[tuple, list[int]] = {}
    for i, recipe in enumerate(recipes):
        groups.setdefault((recipe.task, len(recipe.rows)), []).append(i)
    for (task, num_images), members in groups.items():
        if len(members) == 1:
            raise ValueError(f"the only sample of {task!r} with {num_images} images: there is no "
                             "other to take images from")
        turned = rng.permutation(members)
        for i, j in zip(turned, np.roll(turned, 1), strict=True):
            recipes[i] = replace(dataset.recipes[i], rows=dataset.recipes[j].rows)
    return replace(dataset, recipes=recipes)


def permuted(dataset: TaskDataset, seed: int = 0) -> TaskDataset:
    """Selections with their images in another order, and the answers moved with them."""
    rng = np.random.default_rng(seed)
    recipes = []
    for recipe in dataset.recipes:
        if recipe.task != "select":
            raise ValueError(f"only selections can be permuted, not {recipe.task!r}: "
                             "use dataset.of_task('select')")
        order = rng.permutation(len(recipe.rows))
        answer = int(np.flatnonzero(order == int(_IDENTIFIER.search(recipe.answer)[1]) - 1)[0])
        recipes.append(replace(recipe, rows=tuple(recipe.rows[i] for i in order),
                               answer=identifier(answer + 1)))
    return replace(dataset, recipes=recipes)


def reversed_frames(dataset: TaskDataset) -> TaskDataset:
    """Sequences backwards in time, with the answers that are true of them then."""
    from vlm_utils.tiny_earth import describe_sequence
    scenes = dataset.table.truth.scenes
    recipes = []
    for recipe in dataset.recipes:
        rows = recipe.rows[::-1]
        answer = describe_sequence([scenes[r] for r in rows])
        recipes.append(replace(recipe, rows=rows, answer=answer))
    return replace(dataset, recipes=recipes)


def accuracy_by_position(graded: pd.DataFrame) -> pd.DataFrame:
    """Selections by the position of the right image: chosen how often, right how often."""
    chosen = [parse_choice(row.prediction, row.num_images) for row in graded.itertuples()]
    table = graded.assign(position=graded["answer"].str.extract(r"(\d+)", expand=False).astype(int),
                          chosen=chosen)
    rows = []
    for position, group in table.groupby("position"):
        low, high = wilson_interval(group["correct"].sum(), len(group))
        rows.append({"position": position, "samples": len(group),
                     "accuracy": group["correct"].mean(), "low": low, "high": high,
                     "chosen": (table["chosen"] == position).mean()})
    return pd.DataFrame(rows)


class _Everywhere:
    """A feature table whose every row is the same image."""

    key = "image_features"

    def __init__(self, features: torch.Tensor):
        self.features = features

    def __getitem__(self, rows: list[int]) -> torch.Tensor:
        return self.features.expand(len(rows), *self.features.shape)
