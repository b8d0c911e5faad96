"""Boxes in answers, scored: mean overlap, and TEOChat's pixel F1; beside a guess that sees nothing.

A box is [x1, y1, x2, y2] in whole per cent of the image's width and height.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd

from vlm_utils.datasets import Recipe, Truth
from vlm_utils.tiny_earth import Box

BOX = re.compile(r"\[\s*(-?\d+)\s*,\s*(-?\d+)\s*,\s*(-?\d+)\s*,\s*(-?\d+)\s*\]")
SIDE = 100      # pixels of the grid on which boxes are drawn to be counted


def parse_box(text: str) -> Box | None:
    """The first box of an answer, its corners in order and within 0 to 100; None without one.

    An answer that says "none" has no box, and neither has one whose brackets hold anything else
    than four numbers: nothing is raised, because such an answer is wrong and must be counted.
    """
    match = BOX.search(text)
    if not match:
        return None
    # As a float: int refuses a number of 5,000 digits.
    left, top, right, bottom = (int(min(max(float(number), 0), 100)) for number in match.groups())
    return min(left, right), min(top, bottom), max(left, right), max(top, bottom)


def box_iou(first: Box | None, second: Box | None) -> float:
    """Shared area over joint area (intersection over union); 1 if neither is there, 0 if one is."""
    if first is None or second is None:
        return float(first is second)
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    shared = max(width, 0) * max(height, 0)
    joint = sum((b[2] - b[0]) * (b[3] - b[1]) for b in (first, second)) - shared
    return shared / joint if joint else float(first == second)


def pixel_f1(truths: Iterable[Box | None], answers: Iterable[Box | None]) -> float:
    """F1 of all pixels of all images together, as TEOChat counts change boxes.

    Pixels in both boxes are right, those in the answer alone are false alarms, those in the truth
    alone are missed. Two images without a box add nothing. nan if no image has a box.
    """
    right = wrong = missed = 0
    for truth, answer in zip(truths, answers, strict=True):
        true, said = _pixels(truth), _pixels(answer)
        right += int((true & said).sum())
        wrong += int((said & ~true).sum())
        missed += int((true & ~said).sum())
    total = 2 * right + wrong + missed
    return 2 * right / total if total else float("nan")


def box_scores(predictions: pd.DataFrame) -> dict[str, float]:
    """Scores of a table of `predict` whose answers are boxes or "none".

    mean_iou, above_50, above_75: over the samples that have a box. none_right: the share of "none"
    among those that have none. pixel_f1: over all. samples: how many there are.
    """
    truths = [parse_box(text) for text in predictions["answer"]]
    answers = [parse_box(text) for text in predictions["prediction"]]
    overlaps = np.array([box_iou(a, b) for a, b in zip(truths, answers, strict=True)
                         if a is not None])
    silent = [text.strip().rstrip(".").lower() == "none"
              for truth, text in zip(truths, predictions["prediction"], strict=True)
              if truth is None]
    return {"samples": len(predictions), "mean_iou": overlaps.mean() if len(overlaps) else np.nan,
            "above_50": (overlaps > 0.5).mean() if len(overlaps) else np.nan,
            "above_75": (overlaps > 0.75).mean() if len(overlaps) else np.nan,
            "pixel_f1": pixel_f1(truths, answers),
            "none_right": np.mean(silent) if silent else np.nan}


def guess_boxes(truth: Truth, questions: Sequence[Recipe], asked_of: Truth) -> list[str]:
    """Boxes guessed from what words could tell: the median of all things of that kind and place.

    truth: of training images. questions: `locate` recipes about one image of `asked_of`. The guess
    even knows the place of the thing, which no question names; it never sees the picture. What is
    not there it knows too. A model is worth what it adds to this.
    """
    boxes = defaultdict(list)
    for scene in truth.scenes:
        for feature in scene.features:
            boxes[feature.kind, feature.place, feature.size].append(feature.box)
    medians = {key: np.median(found, axis=0).round().astype(int).tolist()
               for key, found in boxes.items()}
    guesses = []
    for recipe in questions:
        asked = re.search(r"Where is the (.+?)\?", recipe.prompt)[1]
        found = [f for f in asked_of.scenes[recipe.rows[0]].features if f.kind == asked]
        guesses.append(str(medians[found[0].kind, found[0].place, found[0].size])
                       if found else "none")
    return guesses


def _pixels(box: Box | None) -> np.ndarray:
    grid = np.zeros((SIDE, SIDE), dtype=bool)
    if box is not None:
        left, top, right, bottom = box
        grid[top:bottom, left:right] = True
    return grid
