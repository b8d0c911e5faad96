"""Boxes on images: where things are, and where a model says they are."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from vlm_utils.plots.picture import ORANGE, new_figure, wrap

IN_A_ROW, SIZE = 4, 2.3                     # images, and inches of each


def draw_boxes(images: Sequence, truths: Sequence, answers: Sequence,
               titles: Sequence[str]) -> Figure:
    """Images with the true box in white and the model's in orange, dashed, and a title each.

    truths, answers: for each image a box (left, top, right, bottom) in per cent of it, a list of
    boxes, or None for none.
    """
    rows = -(-len(images) // IN_A_ROW)
    columns = min(len(images), IN_A_ROW)
    figure = new_figure(SIZE * columns, (SIZE + 0.5) * rows)
    axes = figure.subplots(rows, columns, squeeze=False).flatten()
    for axis in axes:
        axis.set_axis_off()
    for axis, image, truth, answer, title in zip(axes, images, truths, answers, titles,
                                                 strict=False):
        axis.imshow(np.asarray(image), extent=(0, 100, 100, 0), interpolation="nearest")
        axis.set(xlim=(-2, 102), ylim=(102, -2))
        axis.set_title(wrap(title, 32), fontsize=9)
        _outline(axis, truth, "black", 3.5, "-")        # white alone is lost on snow
        _outline(axis, truth, "white", 2, "-")
        _outline(axis, answer, ORANGE, 2, "--")
    return figure


def _outline(axis, given, colour: str, width: float, style: str) -> None:
    one = given is not None and len(given) == 4 and not isinstance(given[0], Sequence)
    for left, top, right, bottom in [given] if one else given or ():
        axis.add_patch(Rectangle((left, top), right - left, bottom - top, fill=False,
                                 edgecolor=colour, linewidth=width, linestyle=style))
