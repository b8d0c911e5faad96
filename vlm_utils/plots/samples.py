"""Pictures of samples: their images, their questions and answers, their tokens."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from vlm_utils.plots.picture import CREAM, IMAGE_COLOURS, PALE, ink_on, wrap

GAP = 0.12                                      # inches between two images
WIDEST, MOST = 10, 8                            # inches, and images, of one row
TITLE, CAPTION = 10, 9                          # sizes of letters, in points
LINE = 1.25 / 72                                # inches from line to line, per point
LETTERS = 115                                   # of one point that fit into an inch


def draw_images(rows: Sequence[Sequence], titles: Sequence[str] | None = None,
                captions: Sequence[Sequence[str]] | None = None, size: float = 1.5) -> Figure:
    """Rows of PIL images, a title over each row, a caption under each image (`image k` if None).

    size: of each image, in inches; less if the longest row would not fit beside a notebook's
    margin. After eight images a row goes on below.
    """
    titles = titles or [""] * len(rows)
    captions = captions or [[f"image {k + 1}" for k in range(len(row))] for row in rows]
    lines = [(title if k == 0 else "", row[k:k + MOST], texts[k:k + MOST])
             for title, row, texts in zip(titles, rows, captions, strict=True)
             for k in range(0, max(len(row), 1), MOST)]
    size = min(size, WIDEST / max(1, *(len(row) for _, row, _ in lines)) - GAP)
    width = max(max(len(row) for _, row, _ in lines) * (size + GAP), 5)
    lines = [(wrap(title, int(width * LETTERS / TITLE), "   "), row,
              [wrap(text, int(size * LETTERS / CAPTION)) for text in texts])
             for title, row, texts in lines]
    above = [TITLE * LINE * (title.count("\n") + 1) + GAP if title else 0 for title, _, _ in lines]
    below = [CAPTION * LINE * max((text.count("\n") + 1 for text in texts), default=0) + 2 * GAP
             for _, _, texts in lines]
    height = sum(above) + size * len(lines) + sum(below)
    figure, top = Figure(figsize=(width, height)), height
    for (title, row, texts), over, under in zip(lines, above, below, strict=True):
        figure.text(0, top / height, title, fontsize=TITLE, va="top")
        bottom = top - over - size
        for k, (image, text) in enumerate(zip(row, texts, strict=True)):
            axis = figure.add_axes((k * (size + GAP) / width, bottom / height,
                                    size / width, size / height), xticks=[], yticks=[])
            axis.spines[:].set_visible(False)
            axis.imshow(np.asarray(image), interpolation="nearest")
            axis.set_xlabel(text, fontsize=CAPTION, labelpad=3)
        top = bottom - under
    return figure


def draw_samples(samples: Sequence, answers: Sequence[str] | None = None,
                 size: float = 1.5) -> Figure:
    """Samples with question and true answer over their images; `answers`: the model's, if any."""
    titles = []
    for i, sample in enumerate(samples):
        text = sample.prompt.replace("<image>", "").strip()
        title = f"{sample.task}: {text}"
        title += f"\n   truth: {sample.answer}" if sample.answer is not None else ""
        title += f"\n   model: {answers[i]}" if answers is not None else ""
        titles.append(title)
    return draw_images([sample.images for sample in samples], titles, size=size)


def draw_layout(tokens: Sequence[str], width: int = 75) -> Figure:
    """A prompt as coloured boxes, one per token: placeholders of each image, identifiers, text.

    tokens: as the tokenizer writes them. width: letters in a line of boxes.
    """
    boxes, image, x, y, previous = [], -1, 0.0, 0, ""
    for token in tokens:
        if token == "<image>":
            image += previous != "<image>"
            label, colour = f"img{image + 1}", IMAGE_COLOURS[image % len(IMAGE_COLOURS)]
        else:
            label = token.replace("Ġ", " ").replace("Ċ", "\\n").strip() or "␣"
            colour = CREAM if token.startswith("<image_") else PALE
        wide = len(label) + 1.6
        if x + wide > width and x:
            x, y = 0.0, y + 1
        boxes.append((x, y, wide, label, colour))
        x, previous = x + wide, token
    figure = Figure(figsize=(0.11 * width, 0.42 * (y + 1)))
    axis = figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(y + 1, 0))
    axis.axis("off")
    for x, y, wide, label, colour in boxes:
        axis.add_patch(Rectangle((x, y + 0.1), wide - 0.3, 0.8, color=colour))
        axis.text(x + (wide - 0.3) / 2, y + 0.5, label, ha="center", va="center",
                  fontsize=TITLE, color=ink_on(colour))
    return figure
