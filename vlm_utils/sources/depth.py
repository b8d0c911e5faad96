"""Pictures of more than 8 bits: which of their values is black, and which is white?

16-bit and float pictures (reflectance, NDVI, radar) do not say so in their mode, and cutting them
to 8 bits makes them black or white all over. What the file says is taken first. Otherwise the
range is one of a few that are in use, chosen by the values, so that the frames of one place stay
comparable; a stretch of each picture to its own values would hide what changed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

_BITS = (8, 10, 12, 14, 16)         # of sensors, in pictures of 16 or 32 bits
# Ranges of float pictures: (lowest and highest value that they may hold, black, white).
# Reflectance goes a little below 0 after correction, and above 1 on snow; NDVI from -1 to 1.
_FLOATS = (((-0.1, 1.6), (0.0, 1.0)), ((-1.0, 1.0), (-1.0, 1.0)), ((0.0, 255.0), (0.0, 255.0)))
_STRIP = 1 << 20                    # pixels that are converted at once: bounds the memory
# Numbers of TIFF tags.
_BITS_PER_SAMPLE, _PHOTOMETRIC, _NODATA = 258, 262, 42113
_LOWEST_AND_HIGHEST = ((340, 341), (280, 281))      # SMinSampleValue ..., MinSampleValue ...
_WHITE_IS_ZERO = 0


@dataclass(frozen=True)
class Depth:
    """What is known of a deep picture's values: lowest, highest, and the range the file names."""

    low: float
    high: float
    is_float: bool
    said: tuple[float, float] | None = None     # by the file: black, white


def is_deep(picture: Image.Image) -> bool:
    """Does it hold 16 or 32 bits a pixel, integers or floats?"""
    return picture.mode.startswith("I") or picture.mode == "F"


def measure(picture: Image.Image) -> Depth:
    """Lowest and highest value of a deep picture, and the range that its file names, if any.

    Values that are not finite, and those the file calls missing (GDAL's nodata), do not count.
    """
    low, high = math.inf, -math.inf
    for part in _strips(picture):
        there = part[np.isfinite(part)]
        if there.size:
            low, high = min(low, there.min()), max(high, there.max())
    return Depth(float(low), float(high), picture.mode == "F", _said(picture))


def join(depths: Sequence[Depth]) -> Depth:
    """Several pictures as one, so that they are shown alike: a range is said if all say one."""
    said = [depth.said for depth in depths]
    return Depth(min(d.low for d in depths), max(d.high for d in depths), depths[0].is_float,
                 None if None in said else (min(s[0] for s in said), max(s[1] for s in said)))


def black_and_white(depth: Depth) -> tuple[float, float]:
    """The values to show as black and as white. Raises ValueError if that cannot be known."""
    if depth.said is not None:
        return depth.said
    if depth.low > depth.high:
        raise ValueError("holds no number at all")
    if depth.is_float:
        for (lowest, highest), shown in _FLOATS:
            if lowest <= depth.low and depth.high <= highest:
                return shown
    elif depth.low >= 0:
        for bits in _BITS:
            if depth.high < 2 ** bits:
                return 0.0, 2.0 ** bits - 1
    raise ValueError(
        f"holds values from {depth.low:g} to {depth.high:g}, and nothing says which of them is "
        "black and which is white: save it with 8 bits, or write the TIFF tags SMinSampleValue "
        "and SMaxSampleValue")


def to_eight_bits(picture: Image.Image, black: float, white: float) -> Image.Image:
    """A deep picture in mode L: black and what lies below is 0, white and above 255."""
    width, height = picture.size
    levels = np.zeros((height, width), dtype=np.uint8)
    row = 0
    for part in _strips(picture):
        scaled = (part - black) / (white - black) * 255
        if _tag(picture, _PHOTOMETRIC) == _WHITE_IS_ZERO:
            scaled = 255 - scaled
        # Missing values are nan, and black.
        scaled = np.nan_to_num(scaled, nan=0.0, posinf=255.0, neginf=0.0)
        levels[row:row + len(part)] = np.rint(np.clip(scaled, 0, 255)).astype(np.uint8)
        row += len(part)
    return Image.fromarray(levels)


def _strips(picture: Image.Image) -> Iterator[np.ndarray]:
    """A picture's values as floats, some rows at a time; missing ones are nan."""
    width, height = picture.size
    rows = max(1, _STRIP // max(1, width))
    missing = _number(_tag(picture, _NODATA))
    for top in range(0, height, rows):
        part = np.asarray(picture.crop((0, top, width, min(height, top + rows))))
        part = part.astype(np.float64)
        if missing is not None:
            part[part == missing] = np.nan
        yield part


def _said(picture: Image.Image) -> tuple[float, float] | None:
    """The range that the tags of a TIFF name, or that of its bits if these are not whole bytes."""
    for tags in _LOWEST_AND_HIGHEST:
        low, high = (_number(_tag(picture, tag)) for tag in tags)
        if low is not None and high is not None and low < high:
            return low, high
    bits = _number(_tag(picture, _BITS_PER_SAMPLE))
    if bits is not None and bits not in (8, 16, 32, 64):
        return 0.0, 2.0 ** bits - 1
    return None


def _tag(picture: Image.Image, number: int):
    tags = getattr(picture, "tag_v2", None)     # of TIFF pictures only
    value = None if tags is None else tags.get(number)
    return value[0] if isinstance(value, tuple) and value else value


def _number(value) -> float | None:
    try:
        number = float(value.strip("\0 ") if isinstance(value, str) else value)
    except (TypeError, ValueError, ZeroDivisionError):
        return None
    return number if math.isfinite(number) else None
