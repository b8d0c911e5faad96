"""Where do neighbouring frames differ, as the vision encoder sees them?"""

from __future__ import annotations

import math

import numpy as np
from einops import rearrange
from PIL import Image


def change_map(features) -> np.ndarray:
    """How much each patch differs from the same patch one frame earlier: (frames - 1, h, w).

    features: encoded frames, (frames, h, w, dim), or (frames, patches, dim) with the patches of a
    square in row order; a tensor or an array. The difference is 1 - cosine: 0 if two patches have
    the same direction, 1 if they have nothing in common. The length of a feature does not count,
    and with it a good part of what only the light does. Nothing here is trained.
    Raises ValueError for fewer than two frames, or patches that do not form a square.
    """
    values = np.asarray(features, dtype=np.float32)
    if values.ndim == 3:
        side = math.isqrt(values.shape[1])
        if side * side != values.shape[1]:
            raise ValueError(f"{values.shape[1]} patches do not form a square: give features as "
                             "(frames, h, w, dim)")
        values = rearrange(values, "n (h w) d -> n h w d", h=side)
    if values.ndim != 4 or len(values) < 2:
        raise ValueError("features are (frames, h, w, dim) of at least 2 frames, not "
                         f"{values.shape}")
    lengths = np.linalg.norm(values, axis=-1, keepdims=True)
    directions = values / np.maximum(lengths, 1e-12)
    return 1 - (directions[1:] * directions[:-1]).sum(axis=-1)      # (frames - 1, h, w)


def cut_windows(image: Image.Image, count: int, side: int) -> list[Image.Image]:
    """An image as count x count windows of side x side pixels, in row order.

    An encoder for small images sees a large one only shrunk; window by window, it sees what is
    small in it. The image is scaled to count * side pixels before.
    """
    whole = image.convert("RGB").resize((count * side, count * side), Image.Resampling.BICUBIC)
    return [whole.crop((left, top, left + side, top + side))
            for top in range(0, count * side, side) for left in range(0, count * side, side)]


def join_windows(features, count: int) -> np.ndarray:
    """The encoded windows of several images as one grid each, for `change_map`.

    features: (images * count**2, patches, dim), as the encoder gives them for the windows of
    `cut_windows`. Returns (images, h, w, dim), where h and w are count times the patches of a side.
    """
    values = np.asarray(features, dtype=np.float32)
    side = math.isqrt(values.shape[1])
    return rearrange(values, "(n r c) (h w) d -> n (r h) (c w) d", r=count, c=count, h=side)
