"""Figures of the lessons: each is shown with alternative text, in colours all can tell apart."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Sequence

import numpy as np
import pandas as pd
from IPython.display import Image as Picture
from IPython.display import display
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

# Okabe and Ito (2008): distinct for every kind of colour vision.
BLUE, ORANGE, GREEN, PURPLE, GREY = "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#777777"
IMAGE_COLOURS = [BLUE, ORANGE, GREEN, PURPLE, "#56B4E9", "#D55E00", "#B8A900", "#000000"]


def show(figure: Figure, alt: str, dpi: int = 90) -> None:
    """Display a figure as a PNG with its alternative text, and nothing else."""
    display(as_picture(figure, alt, dpi))


def as_picture(figure: Figure, alt: str, dpi: int = 90) -> Picture:
    """A figure as PNG with alternative text, which stays with it in the notebook and in HTML."""
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=dpi, bbox_inches="tight")
    return Picture(data=stream.getvalue(), format="png", alt=alt)


def new_figure(width: float = 7, height: float = 3) -> Figure:
    """An empty figure, in inches."""
    return Figure(figsize=(width, height), layout="constrained")


def draw_images(rows: Sequence[Sequence], titles: Sequence[str] | None = None,
                captions: Sequence[Sequence[str]] | None = None, size: float = 1.5) -> Figure:
    """Rows of PIL images, a title over each row, a caption under each image (`image k` if None)."""
    columns = max(len(row) for row in rows)
    width = max(columns * size, 5)
    figure = new_figure(width, len(rows) * (size + (0.75 if titles else 0.35)))
    parts = np.atleast_1d(figure.subfigures(len(rows), 1))
    for i, (part, row) in enumerate(zip(parts, rows, strict=True)):
        if titles:
            part.suptitle(wrap(titles[i], int(width * 13)), fontsize=9, x=0.01, ha="left")
        axes = part.subplots(1, columns, squeeze=False)[0]
        for k, axis in enumerate(axes):
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set_visible(False)
            if k < len(row):
                axis.imshow(np.asarray(row[k]), interpolation="nearest")
                text = captions[i][k] if captions else f"image {k + 1}"
                axis.set_xlabel(wrap(text, int(size * 13)), fontsize=7.5, labelpad=3)
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


def draw_layout(tokens: Sequence[str], width: int = 15) -> Figure:
    """A prompt as coloured boxes, one a token: placeholders of each image, identifiers, text."""
    lines = -(-len(tokens) // width)
    figure = new_figure(9, 0.5 + 0.55 * lines)
    axis = figure.subplots()
    image, previous = -1, ""
    for i, token in enumerate(tokens):
        if token == "<image>":
            image += previous != "<image>"
        colour = (IMAGE_COLOURS[image % 8] if token == "<image>" else
                  "#ffe9a8" if token.startswith("<image_") else "#eeeeee")
        x, y = i % width, -(i // width)
        axis.add_patch(Rectangle((x, y), 0.94, 0.8, color=colour))
        label = f"img{image + 1}" if token == "<image>" else token.replace("Ġ", " ")
        axis.text(x + 0.47, y + 0.4, label.replace("Ċ", "\\n").strip()[:9], ha="center",
                  va="center", fontsize=8 if len(label) < 8 else 6.5,
                  color="white" if token == "<image>" else "black")
        previous = token
    axis.set(xlim=(-0.2, width), ylim=(-lines + 0.6, 1))
    axis.axis("off")
    return figure


def draw_loss(history: pd.DataFrame, total: int, marks: dict[int, str] | None = None) -> Figure:
    """Loss by step, smoothed over 50 steps, with the learning rate beside it."""
    figure = new_figure(7.5, 2.6)
    left, right = figure.subplots(1, 2, width_ratios=(2, 1))
    left.plot(history["step"], history["loss"], color="#bbccdd", linewidth=0.6)
    left.plot(history["step"], history["loss"].rolling(50, min_periods=1).mean(), color=BLUE)
    done, seconds = int(history["step"].iloc[-1]), history["seconds"].iloc[-1]
    left.set(xlabel="step", ylabel="loss (log scale)", xlim=(0, total), yscale="log",
             title=f"step {done} of {total}, {seconds:.0f} s")
    right.plot(history["step"], history["learning_rate"], color=ORANGE)
    right.set(xlabel="step", title="learning rate", xlim=(0, total))
    return figure


class LiveLoss:
    """A plot of the loss that redraws itself while training goes on: `train(on_step=LiveLoss(n))`.

    Drawn at most every `seconds` seconds, and once more at the end.
    """

    def __init__(self, total: int, seconds: float = 20):
        self.total, self.seconds, self.rows, self.handle, self.last = total, seconds, [], None, -1e9

    def __call__(self, row: dict) -> None:
        self.rows.append(row)
        if row["seconds"] - self.last >= self.seconds or row["step"] == self.total:
            self.last = row["seconds"]
            picture = as_picture(draw_loss(pd.DataFrame(self.rows), self.total),
                                 "The training loss by step, and the learning rate.")
            if self.handle is None:
                self.handle = display(picture, display_id=True)
            else:
                self.handle.update(picture)


def draw_accuracy(tables: dict[str, pd.DataFrame], title: str = "") -> Figure:
    """Accuracy with 95% intervals for each task, one colour a table; guessing as a black line.

    tables: a name for the legend -> what `evaluation.summarise` returns.
    """
    first = next(iter(tables.values()))
    labels = [f"{row.task}\nof {row.num_images}" for row in first.itertuples()]
    figure = new_figure(max(6.5, 0.8 * len(labels)), 3.2)
    axis = figure.subplots()
    width = 0.8 / len(tables)
    for i, (name, table) in enumerate(tables.items()):
        x = np.arange(len(table)) + (i - (len(tables) - 1) / 2) * width
        error = np.clip([table["accuracy"] - table["low"], table["high"] - table["accuracy"]], 0, 1)
        axis.bar(x, table["accuracy"], width * 0.92, yerr=error, label=name,
                 color=[BLUE, ORANGE, GREEN, PURPLE][i % 4], error_kw={"linewidth": 1})
    guess = first["chance"].fillna(first["prior"])
    axis.hlines(guess, np.arange(len(first)) - 0.45, np.arange(len(first)) + 0.45,
                color="black", linestyle="--", linewidth=1.2, label="guessing")
    axis.set_xticks(np.arange(len(labels)), labels, fontsize=8)
    axis.set(ylim=(0, 1.02), ylabel="accuracy", title=title)
    figure.legend(loc="outside lower center", ncols=5, fontsize=8, frameon=False)
    return figure


def draw_attention(images: Sequence, maps: np.ndarray, title: str = "") -> Figure:
    """Attention over the images of one sample: grey pictures under one colour scale for all.

    images: PIL images. maps: (num_images, side, side), shares of one whole. Under each image its
    identifier and its share. Raises ValueError where images and maps differ in number.
    """
    if len(images) != len(maps):
        raise ValueError(f"{len(images)} images and {len(maps)} maps: give one map for each image")
    figure = new_figure(max(5, 1 + 1.9 * len(images)), 2.7)
    axes = figure.subplots(1, len(images), squeeze=False)[0]
    for k, (axis, image, shares) in enumerate(zip(axes, images, maps, strict=True), start=1):
        extent = (0, image.width, image.height, 0)
        # In grey: the picture's own colours would read as attention.
        axis.imshow(np.asarray(image.convert("L")), cmap="gray", vmin=0, vmax=255, extent=extent)
        shade = axis.imshow(shares, cmap="viridis", alpha=0.6, vmin=0, vmax=float(np.max(maps)),
                            extent=extent, interpolation="nearest")
        axis.set(xticks=[], yticks=[], xlabel=f"<image_{k}>\n{np.sum(shares):.0%}")
    figure.colorbar(shade, ax=list(axes), label="share of attention")
    figure.suptitle(wrap(title, 80), fontsize=9)
    return figure


def draw_bars(values: dict[str, float], label: str, title: str = "") -> Figure:
    """Horizontal bars with their values written beside them."""
    figure = new_figure(7, 0.7 + 0.36 * len(values))
    axis = figure.subplots()
    bars = axis.barh(list(values), list(values.values()), color=BLUE)
    axis.bar_label(bars, fmt="%.3g", padding=3, fontsize=8)
    axis.set(xlabel=label, title=title)
    axis.margins(x=0.15)
    axis.invert_yaxis()
    axis.spines[["top", "right"]].set_visible(False)
    return figure


def draw_ladder(table: pd.DataFrame) -> Figure:
    """Samples per second of each rung of `ladder.climb`, and how many times the naive that is.

    A rung that is slower than the one before has another colour.
    """
    figure = new_figure(8.5, 0.9 + 0.48 * len(table))
    axis = figure.subplots()
    speeds = table["samples_per_second"]
    names = [f"{row.rung}\n({row.change})" for row in table.itertuples()]
    bars = axis.barh(names, speeds, color=np.where(speeds.diff() < 0, ORANGE, BLUE))
    labels = [(f"{row.samples_per_second:,.0f}" if row.samples_per_second >= 10
               else f"{row.samples_per_second:.2g}") + f"  ({row.times_naive:.1f} x naive)"
              + (f"\n+ {row.seconds_once:.2g} s once" if row.seconds_once else "")
              for row in table.itertuples()]
    axis.bar_label(bars, labels, padding=3, fontsize=8)
    axis.set(xlabel="training samples per second")
    axis.tick_params(axis="y", labelsize=8)
    axis.margins(x=0.25)
    axis.invert_yaxis()
    axis.spines[["top", "right"]].set_visible(False)
    handles = [Patch(color=BLUE, label="at least as fast as the rung before"),
               Patch(color=ORANGE, label="slower")]
    figure.legend(handles=handles, loc="outside lower center", ncols=2, fontsize=8, frameon=False)
    return figure


def draw_mask(mask: np.ndarray, title: str, labels: dict[int, str]) -> Figure:
    """A matrix of small integers as coloured cells, `labels` naming each value."""
    figure = new_figure(8, 0.9 + 0.2 * len(mask))
    axis = figure.subplots()
    colours = ["#eeeeee", BLUE, ORANGE, GREEN][:len(labels)]
    axis.imshow(mask, cmap=ListedColormap(colours), aspect="auto",
                vmin=0, vmax=len(labels) - 1, interpolation="nearest")
    axis.set(xlabel="token position", ylabel="sample", title=title)
    axis.set_yticks(range(len(mask)))
    patches = [Patch(color=colours[k], label=v) for k, v in labels.items()]
    figure.legend(handles=patches, loc="outside lower center", ncols=len(labels), fontsize=8,
                  frameon=False)
    return figure


def draw_timeline(memory: dict[str, float], title: str = "memory, MB") -> Figure:
    """Memory after each of a row of steps, as a staircase."""
    figure = new_figure(7, 2.6)
    axis = figure.subplots()
    names, values = list(memory), list(memory.values())
    axis.bar(names, values, color=[BLUE if v <= values[0] * 1.05 + 1 else ORANGE for v in values])
    axis.bar_label(axis.containers[0], fmt="%.0f", fontsize=8)
    axis.set_xticks(range(len(names)), [wrap(n, 14) for n in names], fontsize=7.5)
    axis.set(ylabel="MB", title=title)
    axis.margins(y=0.15)
    axis.spines[["top", "right"]].set_visible(False)
    return figure


def wrap(text: str, width: int) -> str:
    """Lines of at most `width` letters; line breaks in the text stay."""
    return "\n".join(textwrap.fill(line, max(width, 8), subsequent_indent="   ")
                     for line in text.split("\n"))


def draw_architecture(first, second, question: str, answer: str) -> Figure:
    """The whole model in one picture: two images, encoder, projector, one row of tokens, answer."""
    figure = Figure(figsize=(10, 4.6))
    axis = figure.add_axes((0, 0, 1, 1))
    axis.set(xlim=(0, 100), ylim=(0, 46))
    axis.axis("off")

    def box(x, y, width, height, text, colour, ink="white", size=10):
        axis.add_patch(Rectangle((x, y), width, height, color=colour))
        axis.text(x + width / 2, y + height / 2, text, ha="center", va="center", color=ink,
                  fontsize=size)

    def arrow(x, y, dx, dy):
        axis.annotate("", (x + dx, y + dy), (x, y), arrowprops={"arrowstyle": "->", "lw": 1.4})

    for x, picture, colour in ((3, first, BLUE), (21, second, "#B36B00")):
        inset = figure.add_axes((x / 100, 0.03, 0.12, 0.12 * 10 / 4.6))
        inset.imshow(np.asarray(picture), interpolation="nearest")
        inset.set(xticks=[], yticks=[])
        for side in inset.spines.values():
            side.set(color=colour, linewidth=3)
        arrow(x + 6, 13.6, 0, 2.2)
    box(2, 16, 32, 4.6, "vision encoder: one ViT for all images, frozen", GREY)
    arrow(18, 20.8, 0, 2)
    box(2, 23, 32, 4.6, "merge neighbouring patches, projector", GREEN)
    arrow(9, 27.8, 0, 3), arrow(27, 27.8, 0, 3)
    row = [("", BLUE)] * 4 + [("<image_1>", "#ffe9a8")] + [("", "#B36B00")] * 4 \
        + [("<image_2>", "#ffe9a8")] + [(word, "#dddddd") for word in question.split()]
    x = 2.0
    for text, colour in row:
        width = 2.6 if not text else 3 + 1.05 * len(text)
        box(x, 31, width - 0.4, 3.4, text, colour, "black", 9)
        x += width
    axis.text(x + 0.6, 32.7, "one row of embeddings", va="center", fontsize=9, color=GREY)
    arrow(30, 34.6, 0, 2)
    box(2, 36.8, x - 2.4, 4.6, "small causal language model", PURPLE)
    arrow(x - 0.4, 39.1, 4, 0)
    axis.text(x + 4.4, 39.1, wrap(answer, 22), va="center", fontsize=11, weight="bold")
    axis.text(46, 18.3, "frozen: each image is encoded once", fontsize=9, va="center", color=GREY)
    axis.text(46, 25.3, "trained, like the language model", fontsize=9, va="center", color=GREEN)
    axis.plot([35, 45], [18.3, 18.3], color=GREY, linewidth=0.6)
    axis.plot([35, 45], [25.3, 25.3], color=GREEN, linewidth=0.6)
    return figure
