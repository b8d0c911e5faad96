"""The model's answers to many samples, graded and counted."""

from __future__ import annotations

import numpy as np
import pandas as pd

from vlm_utils.answering import answer_samples
from vlm_utils.architecture import (
    IDENTIFIER_PATTERN,
    IMAGE_TOKEN,
    MultiImageProcessor,
    MultiImageVLM,
    identifier,
    named_images,
)
from vlm_utils.datasets import TaskDataset
from vlm_utils.evaluation.intervals import wilson_interval
from vlm_utils.tiny_earth import ANSWER_FORMS


def predict(model: MultiImageVLM, processor: MultiImageProcessor, dataset: TaskDataset,
            batch_size: int = 128, max_new_tokens: int = 48, **generation) -> pd.DataFrame:
    """The model's answer to every sample, greedy unless told: one row per sample, in order.

    Columns: task, num_images, prompt, answer (the truth), prediction. Samples of similar length
    are batched together. generation: arguments of `generate`, as do_sample and temperature.
    """
    recipes = dataset.recipes
    order = sorted(range(len(recipes)),
                   key=lambda i: (recipes[i].num_images, len(recipes[i].prompt)))
    predictions: dict[int, str] = {}
    for start in range(0, len(order), batch_size):
        chosen = order[start:start + batch_size]
        answers = answer_samples(model, processor, [dataset[i] for i in chosen],
                                 max_new_tokens, **generation)
        predictions |= dict(zip(chosen, answers, strict=True))
    return pd.DataFrame({
        "task": [r.task for r in recipes], "num_images": [r.num_images for r in recipes],
        "prompt": [r.prompt for r in recipes], "answer": [r.answer for r in recipes],
        "prediction": [predictions[i] for i in range(len(recipes))]})


def parse_choice(text: str, num_images: int) -> int | None:
    """The number k of the one image that an answer names, or None: none, several, or no such."""
    named = set(named_images(text))
    if len(named) != 1:
        return None
    k = named.pop()
    return k if 1 <= k <= num_images else None


def is_answer(task: str, text: str, like: str) -> bool:
    """Has a text the form that the true answer `like` has? Without a form: is there any text?"""
    form = ANSWER_FORMS.get(task)
    if form and form.fullmatch(like):
        return bool(form.fullmatch(text))
    return bool(text.strip())


def grade(predictions: pd.DataFrame) -> pd.DataFrame:
    """Add `valid` and `correct` to predictions. What cannot be parsed stays, and is wrong.

    A selection is valid if it names exactly one of the images; any other answer if it has the
    form of its task's true answers (`is_answer`). Correct: the same image, or the same text.
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
            valid.append(is_answer(row.task, row.prediction, like=row.answer))
            correct.append(row.prediction == row.answer)
    return predictions.assign(valid=valid, correct=correct)


def summarise(graded: pd.DataFrame) -> pd.DataFrame:
    """Accuracy for each task and number of images, beside what guessing would score.

    chance: one of N for a selection. prior: always giving, to questions that begin alike, the
    commonest answer of these samples; "Is there" alone rules out all but two answers.
    low, high: the 95% Wilson interval. invalid: share of answers that cannot be parsed.
    """
    rows = []
    for (task, num_images), group in graded.groupby(["task", "num_images"], sort=True):
        low, high = wilson_interval(group["correct"].sum(), len(group))
        rows.append({
            "task": task, "num_images": num_images, "samples": len(group),
            "accuracy": group["correct"].mean(), "low": low, "high": high,
            "chance": 1 / num_images if task == "select" else np.nan,
            "prior": _answer_prior(group),
            "invalid": 1 - group["valid"].mean()})
    return pd.DataFrame(rows)


def _answer_prior(graded: pd.DataFrame) -> float:
    """The share that is right where each kind of question always gets its commonest answer.

    A kind is its first two words: "Where is" wants a place. More words would name what is asked
    about, and leave so few questions of each kind that the commonest answer is there by chance.
    """
    words = graded["prompt"].str.replace(IMAGE_TOKEN, " ")
    words = words.str.replace(IDENTIFIER_PATTERN, " ", regex=True)
    kinds = words.str.split().str[:2].str.join(" ")
    commonest = graded.groupby(kinds)["answer"].agg(lambda answers: answers.value_counts().iloc[0])
    return commonest.sum() / len(graded)


def evaluate(model: MultiImageVLM, processor: MultiImageProcessor, dataset: TaskDataset,
             **options) -> pd.DataFrame:
    """predict, grade and summarise in one call."""
    return summarise(grade(predict(model, processor, dataset, **options)))


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
