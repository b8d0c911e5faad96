"""Frames in time, with what changed from each to the next laid over them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, Normalize, to_rgba
from matplotlib.figure import Figure
from PIL import Image

from vlm_utils.plots.picture import VERMILLION, new_figure

IN_A_ROW, SIZE = 6, 1.55            # frames, and inches of each
_SHADES = LinearSegmentedColormap.from_list("change", [
    to_rgba(VERMILLION, 0.0), to_rgba(VERMILLION, 0.85)])       # the ground stays in sight


def draw_changes(frames: Sequence[Image.Image], maps: np.ndarray,
                 captions: Sequence[str] | None = None) -> Figure:
    """Each frame, and under it, in grey, where it differs from the frame before it.

    maps: (frames - 1, h, w), as `change_map` gives them: the stronger the red, the larger the
    change. All share one scale, from the median of all patches to the strongest one in a hundred,
    so that a pair of frames with little change is pale. captions: under each frame, as dates.
    Raises ValueError if there is not one map less than frames.
    """
    if len(maps) != len(frames) - 1:
        raise ValueError(f"{len(frames)} frames have {len(frames) - 1} neighbours, and there are "
                         f"{len(maps)} maps")
    captions = captions or [f"frame {k + 1}" for k in range(len(frames))]
    low, high = np.quantile(maps, [0.5, 0.99])
    scale = Normalize(low, max(high, low + 1e-6), clip=True)
    lines = -(-len(frames) // IN_A_ROW)
    columns = -(-len(frames) // lines)              # rows of about the same length
    figure = new_figure(SIZE * columns + 0.9, 2 * lines * (SIZE + 0.25))
    axes = figure.subplots(2 * lines, columns, squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()
    for k, (frame, caption) in enumerate(zip(frames, captions, strict=True)):
        line, column = divmod(k, columns)
        above, below = axes[2 * line, column], axes[2 * line + 1, column]
        above.imshow(np.asarray(frame))
        above.set_title(caption, fontsize=9)
        if k:
            _overlay(below, frame, maps[k - 1], scale)
    figure.colorbar(ScalarMappable(scale, _SHADES), ax=list(axes.flat), fraction=0.03,
                    label="1 - cosine to the frame before")
    return figure


def _overlay(axis, frame: Image.Image, change: np.ndarray, scale: Normalize) -> None:
    width, height = frame.size
    axis.imshow(np.asarray(frame.convert("L")), cmap="gray", vmin=-80, vmax=330)
    axis.imshow(change, cmap=_SHADES, norm=scale, extent=(0, width, height, 0),
                interpolation="nearest")
