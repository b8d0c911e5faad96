"""Scores of true or false, of classes and of boxes, as the benchmarks define them.

Each takes what a reader returned and a table of `predict` for its samples. No answer is left out:
what cannot be parsed is wrong. The official scripts differ in places; lesson 09 shows where.
"""

from __future__ import annotations

import string
from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd

from vlm_utils.evaluation import wilson_interval
from vlm_utils.real_data.records import RealData
from vlm_utils.real_data.shapes import draw, drawn_f1, parse_boxes

# Tasks of TEOChatlas whose answers are boxes.
BOX_TASKS = ("change_detection_localization", "change_detection_detection",
             "spatial_referring_expression")


def parse_label(text: str) -> str | None:
    """ "True" or "False" if the answer is just that, in any case and with or without a full stop;
    None otherwise, as for an answer that says both."""
    return {"true": "True", "false": "False"}.get(plain(text))


def plain(text: str) -> str:
    """An answer as TEOChat compares it: small letters, no punctuation, no space at the ends."""
    return text.lower().translate(str.maketrans("", "", string.punctuation)).strip()


def nlvr_scores(data: RealData, predictions: pd.DataFrame) -> dict[str, float]:
    """NLVR2's and NLVR's two scores: accuracy, and consistency over sentences.

    A sentence is consistent if the answers about all its pictures are right (all that are there:
    see `report` for missing ones). low, high: the Wilson intervals of both. guessing: the accuracy
    of always giving the commonest label; guessing_consistency: the same of whole sentences.
    unreadable: answers that are neither true nor false; they are wrong.
    """
    check_predictions(data, predictions)
    labels = [parse_label(text) for text in predictions["prediction"]]
    right = np.array([label == answer
                      for label, answer in zip(labels, predictions["answer"], strict=True)])
    commonest = predictions["answer"].mode()[0]
    guessed = (predictions["answer"] == commonest).to_numpy()
    groups = data.rows["sentence"].to_numpy()
    whole = pd.Series(right).groupby(groups).all()
    whole_guessed = pd.Series(guessed).groupby(groups).all()
    low, high = wilson_interval(int(right.sum()), len(right))
    consistent_low, consistent_high = wilson_interval(int(whole.sum()), len(whole))
    return {"samples": len(right), "accuracy": right.mean(), "low": low, "high": high,
            "sentences": len(whole), "consistency": whole.mean(),
            "consistency_low": consistent_low, "consistency_high": consistent_high,
            "guessing": guessed.mean(), "guessing_consistency": whole_guessed.mean(),
            "unreadable": sum(label is None for label in labels)}


def teochat_scores(data: RealData, predictions: pd.DataFrame) -> pd.DataFrame:
    """TEOChat's scores, a row for each task.

    Answers in words: accuracy (the same text after `plain`) with its Wilson interval low, high, and
    guessing, the share of the commonest answer. Answers that are boxes (BOX_TASKS): pixel_f1 of all
    pixels of all images together, the file's polygons, or else the boxes of the true answer, drawn
    at 256 x 256; unreadable counts brackets without four numbers.
    """
    check_predictions(data, predictions)
    table = predictions.assign(polygons=list(data.rows["polygons"]))
    rows = []
    for task, group in table.groupby("task", sort=True):
        row = {"task": task, "samples": len(group)}
        if task in BOX_TASKS:
            row |= _box_row(group)
        else:
            answers = group["answer"].map(plain)
            right = int((group["prediction"].map(plain) == answers).sum())
            low, high = wilson_interval(right, len(group))
            row |= {"accuracy": right / len(group), "low": low, "high": high,
                    "guessing": answers.value_counts().iloc[0] / len(group)}
        rows.append(row)
    return pd.DataFrame(rows, columns=["task", "samples", "accuracy", "low", "high", "guessing",
                                       "pixel_f1", "unreadable"])


def _box_row(group: pd.DataFrame) -> dict:
    pairs, unreadable = [], 0
    for row in group.itertuples():
        true, _ = parse_boxes(row.answer)
        said, other = parse_boxes(row.prediction)
        unreadable += other
        truth = draw(row.polygons) if true and row.polygons else draw(boxes=true)
        pairs.append((truth, draw(boxes=said)))
    return {"pixel_f1": drawn_f1(pairs), "unreadable": unreadable}


def class_f1(truths: Sequence[str], predictions: Sequence[str],
             weights: Sequence[float] | None = None) -> pd.DataFrame:
    """F1 of each class that occurs in the truth, and its prevalence.

    weights: what each answer counts, as TEOChat counts the pixels of a building; 1 by default.
    Every answer that is wrong is missed by its true class, also one that names no class at all.
    Returns class, f1, prevalence. The score of a benchmark is a mean of f1: (f1 * prevalence).sum()
    is weighted by prevalence.
    """
    if not len(truths) == len(predictions) > 0:
        raise ValueError(f"{len(truths)} true answers and {len(predictions)} predictions: give one "
                         "for each, and at least one")
    refuse_other_kinds([*truths, *predictions], "the answers")
    truth = np.array([plain(text) for text in truths])
    said = np.array([plain(text) for text in predictions])
    size = np.ones(len(truth)) if weights is None else np.asarray(weights, dtype=float)
    if size.shape != truth.shape or not (size >= 0).all() or not 0 < size.sum() < np.inf:
        raise ValueError(f"weights are {len(truth)} numbers of at least 0, one for each answer and "
                         f"not all 0; these have the shape {size.shape}")
    rows = []
    for name in sorted(set(truth.tolist())):
        right = size[(truth == name) & (said == name)].sum()
        of_truth, of_said = size[truth == name].sum(), size[said == name].sum()
        total = of_truth + of_said
        rows.append({"class": name, "f1": 2 * right / total if total else 0.0,
                     "prevalence": of_truth / size.sum()})
    return pd.DataFrame(rows)


def check_predictions(data: RealData, predictions: pd.DataFrame) -> None:
    """Raise ValueError if a table is not that of `predict` for data.samples, a text for each sample
    and in their order: what a score needs of a sample would be taken from another one."""
    what = "give the table that predict returned for data.samples"
    if missing := {"answer", "prediction"} - set(predictions):
        raise ValueError(f"the predictions lack {' and '.join(sorted(missing))}: {what}")
    if len(predictions) != len(data):
        raise ValueError(f"{len(predictions)} predictions for {len(data)} samples of {data.name}: "
                         f"{what}")
    unknown = predictions["answer"].isna()
    if unknown.any():
        raise ValueError(f"sample {int(unknown.to_numpy().argmax())} of {data.name} has no true "
                         "answer")
    refuse_other_kinds(predictions["prediction"], f"the predictions for {data.name}")
    for number, (recipe, answer) in enumerate(
            zip(data.samples.recipes, predictions["answer"], strict=True)):
        if recipe.answer not in (None, answer):
            raise ValueError(
                f"sample {number} of {data.name} has the true answer {recipe.answer!r:.60}, and "
                f"row {number} of the predictions {answer!r:.60}: {what}, in its order")


def refuse_other_kinds(texts: Iterable, what: str) -> None:
    """Raise ValueError naming the first of several texts that is not one."""
    for number, text in enumerate(texts):
        if not isinstance(text, str):
            raise ValueError(
                f"{what}, number {number}: is {text!r:.40} ({type(text).__name__}), not a text; "
                "of a table from a CSV file, read all cells as texts: pd.read_csv(file, dtype=str, "
                "keep_default_na=False)")
