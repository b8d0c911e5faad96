"""Detection as text: "lake [12, 30, 40, 60], town [55, 8, 90, 41].", or "none"; parsed and counted.

Detectors are usually compared by average precision (AP), which orders boxes by the confidence that
comes with each. A sentence holds no confidences, so boxes are counted instead: found, missed and
false alarms.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from vlm_utils.datasets import box_text
from vlm_utils.real_data.shapes import draw, drawn_f1
from vlm_utils.time_series import box_iou, parse_box
from vlm_utils.tiny_earth import Box, Scene

NONE = "none"
NAME_AND_BOX = re.compile(r"([^\W\d_][\w -]*?)\s*(\[[^\[\]]*\])")


class Thing(NamedTuple):
    """One thing of a detection: its name, and its box [x1, y1, x2, y2] in per cent."""

    name: str
    box: Box


def things_text(things: Sequence[Thing]) -> str:
    """Things as the answers write them, from top to bottom: "lake [1, 2, 30, 40]."; or "none"."""
    ordered = sorted(things, key=lambda thing: (thing.box[1], thing.box[0], thing.name))
    return ", ".join(f"{name} {box_text(box)}" for name, box in ordered) + "." if ordered else NONE


def things_of(scene: Scene) -> list[Thing]:
    """What a scene holds. Raises ValueError if its boxes are not known."""
    unknown = [feature.kind for feature in scene.features if feature.box is None]
    if unknown:
        raise ValueError(f"the box of the {unknown[0]} is not known: give scenes with boxes, as "
                         "the tables hold them (tiny_earth.with_boxes)")
    return [Thing(feature.kind, feature.box) for feature in scene.features]


def parse_things(text: str) -> list[Thing]:
    """Every name with a box after it, in the order of the text.

    A bracket with more or fewer than four numbers is not a box, and its name is left out: nothing
    is raised, because such an answer is wrong and must be counted.
    """
    found = [(name, parse_box(bracket)) for name, bracket in NAME_AND_BOX.findall(text.lower())]
    return [Thing(name, box) for name, box in found if box is not None]


def match_things(truth: Sequence[Thing], said: Sequence[Thing],
                 least: float = 0.5) -> list[tuple[int, int]]:
    """Pairs (row of the truth, row of the answer) that mean the same thing; each at most once.

    The name must be the same, and the intersection over union at least `least`. The closest pair
    is taken first, so that a thing said twice is found once, and a false alarm once.
    """
    close = [(box_iou(one.box, other.box), i, j) for i, one in enumerate(truth)
             for j, other in enumerate(said) if one.name == other.name]
    pairs: list[tuple[int, int]] = []
    for overlap, i, j in sorted(close, key=lambda pair: -pair[0]):
        if overlap >= least and i not in (a for a, _ in pairs) and j not in (b for _, b in pairs):
            pairs.append((i, j))
    return sorted(pairs)


def detection_scores(predictions: pd.DataFrame, least: float = 0.5) -> dict[str, float]:
    """Counts over a table of `predict` whose answers are things with boxes, or "none".

    found, missed, false_alarms: numbers of things. precision, recall, f1: from them; nan without
    any. pixel_f1: of the pixels in any box, whatever its name. none_right: the share of images
    without things that were answered with "none"; nan without such. exact: the share of images of
    which everything was found and nothing else said.
    """
    truths = [parse_things(text) for text in predictions["answer"]]
    said = [parse_things(text) for text in predictions["prediction"]]
    found = [len(match_things(t, s, least)) for t, s in zip(truths, said, strict=True)]
    total, claimed, right = sum(map(len, truths)), sum(map(len, said)), sum(found)
    empty = [is_none(text) for truth, text in zip(truths, predictions["prediction"], strict=True)
             if not truth]
    return {"found": right, "missed": total - right, "false_alarms": claimed - right,
            "precision": _ratio(right, claimed), "recall": _ratio(right, total),
            "f1": _ratio(2 * right, total + claimed), "pixel_f1": drawn_f1(
                (_drawn(t), _drawn(s)) for t, s in zip(truths, said, strict=True)),
            "none_right": float(np.mean(empty)) if empty else float("nan"),
            "exact": float(np.mean(all_found(predictions, least)))}


def all_found(predictions: pd.DataFrame, least: float = 0.5) -> list[bool]:
    """For each image: was everything found, and nothing else said? Of an empty one, only "none"
    says so; an answer that cannot be read does not."""
    right = []
    for answer, prediction in zip(predictions["answer"], predictions["prediction"], strict=True):
        truth, said = parse_things(answer), parse_things(prediction)
        right.append(len(match_things(truth, said, least)) == len(truth) == len(said)
                     if truth else is_none(prediction))
    return right


def is_none(text: str) -> bool:
    return text.strip().rstrip(".").lower() == NONE


def _drawn(things: Sequence[Thing]) -> np.ndarray:
    return draw(boxes=[thing.box for thing in things])


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else float("nan")
