"""Scores of boxes: overlap, pixel F1, and answers that cannot be read."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlm_utils.datasets import Recipe
from vlm_utils.datasets.boxes import box_text
from vlm_utils.time_series import box_iou, box_scores, guess_boxes, parse_box, pixel_f1


@st.composite
def boxes(draw):
    left, top = draw(st.integers(0, 98)), draw(st.integers(0, 98))
    return left, top, draw(st.integers(left + 1, 100)), draw(st.integers(top + 1, 100))


@given(boxes())
def test_a_box_is_read_as_it_was_written(box):
    assert parse_box(box_text(box)) == box
    assert parse_box(f"It is at {box_text(box)}.") == box


@pytest.mark.parametrize(("text", "box"), [
    ("none", None), ("", None), ("[1, 2, 3]", None), ("[1, 2, 3, 4, 5]", None),
    ("[a, b, c, d]", None),
    ("[40, 50, 10, 20]", (10, 20, 40, 50)), ("[-5, 0, 140, 20]", (0, 0, 100, 20)),
    ("[1,2,30,40]", (1, 2, 30, 40)), ("[1.5, 2, 3, 4]", None)])
def test_an_answer_that_is_not_a_box_has_none_and_ends_nothing(text, box):
    """A trap of TEOChat's script: a bracket with other than four numbers ended the run."""
    assert parse_box(text) == box


@given(boxes(), boxes())
def test_overlap_is_symmetric_and_counts_pixels(first, second):
    iou = box_iou(first, second)
    assert iou == box_iou(second, first) and 0 <= iou <= 1 and box_iou(first, first) == 1
    grids = np.zeros((2, 100, 100), dtype=bool)
    for grid, (left, top, right, bottom) in zip(grids, (first, second), strict=True):
        grid[top:bottom, left:right] = True
    assert iou == pytest.approx((grids[0] & grids[1]).sum() / (grids[0] | grids[1]).sum())
    # Of one pair, F1 and overlap tell the same: F1 = 2 IoU / (1 + IoU).
    assert pixel_f1([first], [second]) == pytest.approx(2 * iou / (1 + iou))


def test_pixel_f1_counts_false_alarms_and_what_is_missed():
    box = (0, 0, 10, 10)
    assert pixel_f1([box, None], [box, None]) == 1
    assert pixel_f1([box, None], [box, box]) == pytest.approx(2 / 3)
    assert pixel_f1([box, box], [box, None]) == pytest.approx(2 / 3)
    assert np.isnan(pixel_f1([None], [None]))


def test_scores_keep_what_cannot_be_read_and_tell_none_from_silence():
    table = pd.DataFrame({"answer": ["[0, 0, 10, 10]", "[0, 0, 10, 10]", "none", "none"],
                          "prediction": ["[0, 0, 10, 10]", "no idea", "none", "no idea"]})
    scores = box_scores(table)
    assert scores["mean_iou"] == 0.5 and scores["above_75"] == 0.5
    assert scores["none_right"] == 0.5, "an answer that cannot be read is not a none"
    assert scores["pixel_f1"] == pytest.approx(2 / 3)


def test_the_guess_knows_kind_and_place_and_never_the_picture(earth_truth):
    rows = [row for row, scene in enumerate(earth_truth.scenes) if scene.features]
    feature = earth_truth.scenes[rows[0]].features[0]
    questions = [Recipe((rows[0],), f"<image>Where is the {feature.kind}? Give a box.",
                        box_text(feature.box), "locate"),
                 Recipe((rows[0],), "<image>Where is the unicorn? Give a box.", "none", "locate")]
    found, missing = guess_boxes(earth_truth, questions, earth_truth)
    alike = [f.box for scene in earth_truth.scenes for f in scene.features
             if (f.kind, f.place, f.size) == (feature.kind, feature.place, feature.size)]
    assert parse_box(found) == tuple(np.median(alike, axis=0).round().astype(int).tolist())
    assert missing == "none"
