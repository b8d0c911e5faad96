"""Charts of the lessons: accuracy, memory, speed, loss, masks and attention."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from vlm_utils.plots.picture import (
    BLUE,
    GREEN,
    ORANGE,
    PALE,
    PURPLE,
    VERMILLION,
    new_figure,
    wrap,
)

SMALL = 9                       # points: the smallest letters of a chart


def draw_loss(history: pd.DataFrame, total: int) -> Figure:
    """Loss by step, smoothed over 50 steps, with the learning rate beside it.

    history: what `train` returns, or its first rows. total: steps of the whole training.
    """
    figure = new_figure(7.5, 2.6)
    left, right = figure.subplots(1, 2, width_ratios=(2, 1))
    marker = "o" if len(history) < 50 else None     # a line needs points, a point is no line
    left.plot(history["step"], history["loss"], color="#BBCCDD", linewidth=0.6)
    left.plot(history["step"], history["loss"].rolling(50, min_periods=1).mean(), color=BLUE,
              marker=marker, markersize=3)
    done, seconds = int(history["step"].iloc[-1]), history["seconds"].iloc[-1]
    left.set(xlabel="step", ylabel="loss (log scale)", xlim=(0, total), yscale="log",
             title=f"step {done:,} of {total:,}, {seconds:.0f} s")
    right.plot(history["step"], history["learning_rate"], color=VERMILLION, marker=marker,
               markersize=3)
    right.set(xlabel="step", title="learning rate", xlim=(0, total))
    for axis, most in ((left, 7), (right, 4)):
        axis.locator_params("x", nbins=most, integer=True)
    return figure


def draw_accuracy(tables: dict[str, pd.DataFrame], title: str = "",
                  in_numbers: bool = False) -> Figure:
    """Accuracy with 95% intervals for each task, one colour per table; guessing as a black line.

    tables: a name for the legend -> what `evaluation.summarise` returns. in_numbers: write the per
    cent over each bar, because a bar of 0% cannot be seen. Raises ValueError if they differ in
    their tasks.
    """
    first = next(iter(tables.values()))
    labels = [f"{row.task}\nof {row.num_images}" for row in first.itertuples()]
    figure = new_figure(max(6.5, 0.85 * len(labels)), 3.2)
    axis = figure.subplots()
    width = 0.8 / len(tables)
    for i, (name, table) in enumerate(tables.items()):
        if list(table["task"]) != list(first["task"]):
            raise ValueError(f"{name!r} has other tasks than {next(iter(tables))!r}: draw tables "
                             "with the same rows")
        x = np.arange(len(table)) + (i - (len(tables) - 1) / 2) * width
        error = np.clip([table["accuracy"] - table["low"], table["high"] - table["accuracy"]], 0, 1)
        bars = axis.bar(x, table["accuracy"], width * 0.92, yerr=error, label=name,
                        color=[BLUE, ORANGE, GREEN, PURPLE][i % 4], error_kw={"linewidth": 1})
        if in_numbers:
            axis.bar_label(bars, fmt="{:.0%}", padding=2, fontsize=SMALL)
    guess = first["chance"].fillna(first["prior"])
    axis.hlines(guess, np.arange(len(first)) - 0.45, np.arange(len(first)) + 0.45,
                color="black", linestyle="--", linewidth=1.2, label="guessing")
    axis.set_xticks(np.arange(len(labels)), labels, fontsize=SMALL)
    axis.set(ylim=(0, 1.15 if in_numbers else 1.02), ylabel="accuracy", title=title)
    figure.legend(loc="outside lower center", ncols=5, fontsize=SMALL, frameon=False)
    return figure


def draw_attention(images: Sequence, maps: np.ndarray, title: str = "") -> Figure:
    """Attention over the images of one sample: grey pictures under one colour scale for all.

    images: PIL images. maps: (num_images, side, side), shares of one whole. Under each image its
    identifier and its share. Raises ValueError if images and maps differ in number.
    """
    if len(images) != len(maps):
        raise ValueError(f"{len(images)} images and {len(maps)} maps: give one map for each image")
    columns, rows = min(len(images), 8), -(-len(images) // 8)
    width = min(max(5, 1 + 1.9 * columns), 11)
    figure = new_figure(width, 0.4 + rows * ((width - 1) / max(columns, 2) + 0.5))
    axes = figure.subplots(rows, columns, squeeze=False).flatten()
    for axis in axes[len(images):]:
        axis.remove()
    axes = axes[:len(images)]
    for k, (axis, image, shares) in enumerate(zip(axes, images, maps, strict=True), start=1):
        extent = (0, image.width, image.height, 0)
        # In grey: the picture's own colours would read as attention.
        axis.imshow(np.asarray(image.convert("L")), cmap="gray", vmin=0, vmax=255, extent=extent)
        shade = axis.imshow(shares, cmap="viridis", alpha=0.6, vmin=0, vmax=float(np.max(maps)),
                            extent=extent, interpolation="nearest")
        axis.set(xticks=[], yticks=[], xlabel=f"<image_{k}>\n{np.sum(shares):.0%}")
    figure.colorbar(shade, ax=list(axes), label="share of attention")
    figure.suptitle(wrap(title, int(12 * width)), fontsize=SMALL)
    return figure


def draw_bars(values: dict[str, float], label: str, title: str = "") -> Figure:
    """Horizontal bars with their values written beside them."""
    figure = new_figure(7, 0.7 + 0.36 * len(values))
    axis = figure.subplots()
    bars = axis.barh(list(values), list(values.values()), color=BLUE)
    axis.bar_label(bars, fmt="%.3g", padding=3, fontsize=SMALL)
    axis.set(xlabel=label, title=title)
    axis.margins(x=0.15)
    axis.invert_yaxis()
    axis.spines[["top", "right"]].set_visible(False)
    return figure


def draw_ladder(table: pd.DataFrame) -> Figure:
    """Samples per second of each rung of `ladder.climb`, and how many times the naive that is.

    A rung that is slower than the one before has another colour.
    """
    figure = new_figure(8.5, 0.9 + 0.52 * len(table))
    axis = figure.subplots()
    speeds = table["samples_per_second"]
    names = [f"{row.rung}\n{wrap(f'({row.change})', 40)}" for row in table.itertuples()]
    bars = axis.barh(names, speeds, color=np.where(speeds.diff() < 0, ORANGE, BLUE))
    labels = [(f"{row.samples_per_second:,.0f}" if row.samples_per_second >= 10
               else f"{row.samples_per_second:.2g}") + f"  ({row.times_naive:.1f} x naive)"
              + (f"\n+ {row.seconds_once:.2g} s once" if row.seconds_once else "")
              for row in table.itertuples()]
    axis.bar_label(bars, labels, padding=3, fontsize=SMALL)
    axis.set(xlabel="training samples per second")
    axis.tick_params(axis="y", labelsize=SMALL)
    axis.margins(x=0.25)
    axis.invert_yaxis()
    axis.spines[["top", "right"]].set_visible(False)
    handles = [Patch(color=BLUE, label="at least as fast as the rung before"),
               Patch(color=ORANGE, label="slower")]
    figure.legend(handles=handles, loc="outside lower center", ncols=2, fontsize=SMALL,
                  frameon=False)
    return figure


def draw_mask(mask: np.ndarray, title: str, labels: dict[int, str]) -> Figure:
    """A matrix of small integers (samples, tokens) as coloured cells, `labels` naming each value.

    labels: of 0 to 3; 0 is drawn pale. Raises ValueError for a value that has none.
    """
    unnamed = set(np.unique(mask).tolist()) - set(labels)
    if unnamed or set(labels) - {0, 1, 2, 3}:
        raise ValueError(f"name each value of the mask from 0 to 3: {sorted(unnamed)} have no "
                         f"name, {sorted(labels)} have one")
    figure = new_figure(8, 1.2 + 0.22 * len(mask))
    axis = figure.subplots()
    colours = [PALE, BLUE, ORANGE, GREEN]
    axis.imshow(mask, cmap=ListedColormap(colours), aspect="auto",
                vmin=0, vmax=len(colours) - 1, interpolation="nearest")
    axis.set(xlabel="token position", ylabel="sample", title=title)
    axis.set_yticks(range(len(mask)))
    patches = [Patch(color=colours[k], label=v) for k, v in labels.items()]
    figure.legend(handles=patches, loc="outside lower center", ncols=len(labels), fontsize=SMALL,
                  frameon=False)
    return figure


def draw_timeline(memory: dict[str, float], title: str = "memory, MB") -> Figure:
    """Memory after each of a row of steps, in MB. What is above the first step is orange."""
    figure = new_figure(7, 2.6)
    axis = figure.subplots()
    names, values = list(memory), list(memory.values())
    axis.bar(names, values, color=[BLUE if v <= values[0] * 1.05 + 1 else ORANGE for v in values])
    axis.bar_label(axis.containers[0], fmt="%.0f", fontsize=SMALL)
    letters = int(80 / len(names))
    axis.set_xticks(range(len(names)), [wrap(n, letters) for n in names], fontsize=SMALL)
    axis.set(ylabel="MB", title=title)
    axis.margins(y=0.15)
    axis.spines[["top", "right"]].set_visible(False)
    return figure
