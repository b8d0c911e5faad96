"""The picture of the README: the whole model, from two images to an answer."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from vlm_utils.plots.picture import BLUE, CREAM, GREEN, GREY, PURPLE, ink_on, wrap

BROWN = "#B36B00"               # orange, dark enough to frame a picture on white
WIDTH, HEIGHT = 10, 4.6         # inches; positions below are tenths of an inch


def draw_architecture(first, second, question: str, answer: str) -> Figure:
    """The whole model in one picture: two images, encoder, projector, one row of tokens, answer."""
    figure = Figure(figsize=(WIDTH, HEIGHT))
    axis = figure.add_axes((0, 0, 1, 1), xlim=(0, 10 * WIDTH), ylim=(0, 10 * HEIGHT))
    axis.axis("off")
    for x, picture, colour in ((3, first, BLUE), (21, second, BROWN)):
        inset = figure.add_axes((x / 10 / WIDTH, 0.14 / HEIGHT, 1.2 / WIDTH, 1.2 / HEIGHT),
                                xticks=[], yticks=[])
        inset.imshow(np.asarray(picture), interpolation="nearest")
        inset.spines[:].set(color=colour, linewidth=3)
        _arrow(axis, x + 6, 13.6, 0, 2.2)
        _arrow(axis, x + 6, 27.8, 0, 3)
    _box(axis, 2, 16, 32, 4.6, "vision encoder: one ViT for all images", GREY)
    _arrow(axis, 18, 20.8, 0, 2)
    _box(axis, 2, 23, 32, 4.6, "merge neighbouring patches, projector", GREEN)
    for y, text in ((18.3, "frozen: each image is encoded once"),
                    (25.3, "trained, like the language model")):
        axis.plot([35, 39], [y, y], color=GREY, linewidth=0.8)
        axis.text(40, y, text, fontsize=10, va="center")
    row = [("", BLUE)] * 4 + [("<image_1>", CREAM)] + [("", BROWN)] * 4 \
        + [("<image_2>", CREAM)] + [(word, "#DDDDDD") for word in question.split()]
    x = 2.0
    for text, colour in row:
        width = 3 + 1.05 * len(text) if text else 2.6
        _box(axis, x, 31, width - 0.4, 3.4, text, colour, size=9)
        x += width
    axis.text(x + 0.6, 32.7, "one row of embeddings", va="center", fontsize=10)
    _arrow(axis, 30, 34.6, 0, 2)
    _box(axis, 2, 36.8, x - 2.4, 4.6, "small causal language model", PURPLE)
    _arrow(axis, x - 0.4, 39.1, 4, 0)
    axis.text(x + 4.4, 39.1, wrap(answer, 24), va="center", fontsize=11, weight="bold")
    return figure


def _box(axis: Axes, x: float, y: float, width: float, height: float, text: str, colour: str,
         size: float = 10) -> None:
    axis.add_patch(Rectangle((x, y), width, height, color=colour))
    axis.text(x + width / 2, y + height / 2, text, ha="center", va="center",
              color=ink_on(colour), fontsize=size)


def _arrow(axis: Axes, x: float, y: float, right: float, up: float) -> None:
    axis.annotate("", (x + right, y + up), (x, y), arrowprops={"arrowstyle": "->", "lw": 1.4})
