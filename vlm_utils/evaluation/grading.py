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
from vlm_utils.evaluation.controls import blind, shuffled
from vlm_utils.evaluation.intervals import wilson_interval
from vlm_utils.tiny_earth import ANSWER_FORMS


def predict(model: MultiImageVLM, processor: MultiImageProcessor,
            dataset: TaskDataset, batch_size: int = 128,
            max_new_tokens: int = 48, **generation) -> pd.DataFrame:
    """The model's answer to every sample: one row per sample, in order.

    Columns: task, num_images, prompt, answer (the truth), prediction.
    generation: arguments of `generate`. Without any, decoding is greedy.
    """
    recipes = dataset.recipes
    # Samples of similar length share a batch, so little of it is padding.
    order = sorted(range(len(recipes)), key=lambda i: (
        recipes[i].num_images, len(recipes[i].prompt)))
    predictions = [""] * len(recipes)
    for start in range(0, len(order), batch_size):
        chosen = order[start:start + batch_size]
        samples = [dataset[i] for i in chosen]
        answers = answer_samples(model, processor, samples, max_new_tokens,
                                 **generation)
        for i, answer in zip(chosen, answers, strict=True):
            predictions[i] = answer
    return pd.DataFrame({
        "task": [recipe.task for recipe in recipes],
        "num_images": [recipe.num_images for recipe in recipes],
        "prompt": [recipe.prompt for recipe in recipes],
        "answer": [recipe.answer for recipe in recipes],
        "prediction": predictions})


def parse_choice(text: str, num_images: int) -> int | None:
    """The number of the one image that an answer names, counted from 1.

    None if it names no image, several, or one that is not there.
    """
    named = set(named_images(text))
    if len(named) != 1:
        return None
    number = named.pop()
    return number if 1 <= number <= num_images else None


def is_answer(task: str, text: str, like: str) -> bool:
    """Does a text have the form of the true answer `like`? Without a known form: any text does."""
    form = ANSWER_FORMS.get(task)
    if form and form.fullmatch(like):
        return bool(form.fullmatch(text))
    return bool(text.strip())


def grade(predictions: pd.DataFrame) -> pd.DataFrame:
    """Add `valid` and `correct`. What cannot be parsed stays, and is wrong.

    A selection is valid if it names exactly one of its images, any other
    answer if it has the form of a true one (`is_answer`). Correct: the same
    image, or the same text. Raises ValueError without a true answer.
    """
    unknown = predictions["answer"].isna()
    if unknown.any():
        raise ValueError(f"sample {int(unknown.idxmax())} has no true answer: "
                         "only captioned images and TinyEarth can be graded")
    valid, correct = [], []
    for row in predictions.itertuples():
        if row.task == "select":
            choice = parse_choice(row.prediction, row.num_images)
            valid.append(choice is not None)
            correct.append(choice is not None
                           and identifier(choice) == row.answer)
        else:
            valid.append(is_answer(row.task, row.prediction, like=row.answer))
            correct.append(row.prediction == row.answer)
    return predictions.assign(valid=valid, correct=correct)


def summarise(graded: pd.DataFrame) -> pd.DataFrame:
    """Accuracy for each task and number of images, beside what guessing would score.

    low, high: the 95% Wilson interval of the accuracy. chance: 1 / num_images for a selection,
    else nan. prior: what it scores to give each kind of question its commonest answer. invalid:
    the share of answers that cannot be parsed. All are shares between 0 and 1.
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


def evaluate(model: MultiImageVLM, processor: MultiImageProcessor, dataset: TaskDataset,
             **options) -> pd.DataFrame:
    """predict, grade and summarise in one call. options: those of predict."""
    return summarise(grade(predict(model, processor, dataset, **options)))


def evaluate_with_controls(model: MultiImageVLM, processor: MultiImageProcessor,
                           dataset: TaskDataset, **options) -> pd.DataFrame:
    """evaluate, with the accuracy of both controls in columns beside it: blind and shuffled."""
    key = ["task", "num_images"]
    table = evaluate(model, processor, dataset, **options).set_index(key)
    for name, control in (("blind", blind), ("shuffled", shuffled)):
        table[name] = evaluate(model, processor, control(dataset), **options).set_index(
            key)["accuracy"]
    return table.reset_index()


def accuracy_by_position(graded: pd.DataFrame) -> pd.DataFrame:
    """Graded selections by the position of the right image, counted from 1.

    Columns: position, samples, accuracy with its interval (low, high), and chosen: the share of
    ALL samples in which the model picked this position.
    """
    table = graded.assign(
        position=[named_images(answer)[0] for answer in graded["answer"]],
        chosen=[parse_choice(row.prediction, row.num_images) for row in graded.itertuples()])
    rows = []
    for position, group in table.groupby("position"):
        low, high = wilson_interval(group["correct"].sum(), len(group))
        rows.append({"position": position, "samples": len(group),
                     "accuracy": group["correct"].mean(), "low": low, "high": high,
                     "chosen": (table["chosen"] == position).mean()})
    return pd.DataFrame(rows)


def _answer_prior(graded: pd.DataFrame) -> float:
    """The accuracy of giving each kind of question the commonest answer of these samples.

    The first two words tell the kind: "Where is" wants a place, "Is there" a yes or a no. More
    words would name what is asked about, and leave so few questions of each kind that the
    commonest answer is there by chance.
    """
    words = graded["prompt"].str.replace(IMAGE_TOKEN, " ")
    words = words.str.replace(IDENTIFIER_PATTERN, " ", regex=True)
    # Dates before images ("2019-03:") and numbers ("Image 2:") are not words of the question.
    words = words.str.replace(r"(?:\bImage )?\S*\d\S*", " ", regex=True)
    kinds = words.str.split().str[:2].str.join(" ")
    commonest = graded.groupby(kinds)["answer"].agg(lambda answers: answers.value_counts().iloc[0])
    return commonest.sum() / len(graded)
