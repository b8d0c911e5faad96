"""Boxes and polygons: read from text, drawn, and counted in pixels, as TEOChat does.

Boxes are [x1, y1, x2, y2] in per cent of the image's width and height; polygons are lists of (x, y)
in pixels of a 256 x 256 image.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence

import numpy as np
from PIL import Image, ImageDraw

SIDE, _FAR = 256, 1e6
Box = tuple[float, float, float, float]
Polygon = list[tuple[float, float]]
_BRACKETS = re.compile(r"\[([^\[\]]*)\]")     # the inner ones of a list of boxes, over line ends
_OUTER_RING = re.compile(r"\(\s*\(\s*([^()]+)\)")    # of each polygon, the ring that opens it


def parse_boxes(text: str) -> tuple[list[Box], int]:
    """All boxes of an answer, and how many brackets hold something else than four numbers.

    TEOChat's own script stops at a bracket with fewer than four numbers, and with it the whole
    run; here such a bracket is not a box. Corners come in order and within 0 to 100.
    """
    boxes, unreadable = [], 0
    for inside in _BRACKETS.findall(text):
        try:
            numbers = [float(part) for part in inside.split(",")]
        except ValueError:
            numbers = []
        if len(numbers) != 4 or not all(map(math.isfinite, numbers)):       # float reads "nan" too
            unreadable += 1
            continue
        x1, y1, x2, y2 = (min(max(number, 0.0), 100.0) for number in numbers)
        boxes.append((min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2)))
    return boxes, unreadable


def parse_polygons(texts: str | Sequence[str], where: str) -> list[Polygon]:
    """Outer rings of WKT texts (POLYGON, MULTIPOLYGON); an empty text, as in [''], holds none.

    Holes are left out, as TEOChat leaves them out. Raises ValueError naming the row otherwise.
    """
    if not isinstance(texts, str | list | tuple):
        raise ValueError(f"{where}: polygon is {texts!r:.60}, not a list of WKT texts")
    found: list[Polygon] = []
    for text in [texts] if isinstance(texts, str) else texts:
        if not isinstance(text, str):
            raise ValueError(f"{where}: a polygon is {text!r:.40}, not a WKT text")
        kind = text.strip().upper()
        if not kind or kind.endswith("EMPTY"):
            continue
        if not kind.startswith(("POLYGON", "MULTIPOLYGON")):
            raise ValueError(f"{where}: a polygon is {text[:40]!r}, not POLYGON or MULTIPOLYGON")
        rings = _OUTER_RING.findall(text)
        if not rings:
            raise ValueError(f"{where}: the polygon {text[:40]!r} has no ring of points")
        found += [_points(ring, where) for ring in rings]
    return found


def _points(ring: str, where: str) -> Polygon:
    try:
        points = [(float(x), float(y)) for x, y, *_ in (pair.split() for pair in ring.split(","))]
        # Far outside, the pen would count in numbers that have no end.
        points = [(_near(x), _near(y)) for x, y in points]
    except ValueError as error:
        raise ValueError(f"{where}: the ring {ring[:40]!r} of a polygon is not pairs of numbers "
                         f"({error})") from error
    if len(points) < 3:
        raise ValueError(f"{where}: the ring {ring[:40]!r} of a polygon has fewer than 3 points")
    return points


def _near(number: float) -> float:
    if not math.isfinite(number):
        raise ValueError(f"{number} is not a place")
    return min(max(number, -_FAR), _FAR)


def box_polygon(box: Box, side: int = SIDE) -> str:
    """A box as WKT, in pixels."""
    x1, y1, x2, y2 = (value / 100 * side for value in box)
    return f"POLYGON (({x1:g} {y1:g}, {x1:g} {y2:g}, {x2:g} {y2:g}, {x2:g} {y1:g}, {x1:g} {y1:g}))"


def draw(polygons: Iterable[Polygon] = (), boxes: Iterable[Box] = (), side: int = SIDE
         ) -> np.ndarray:
    """(side, side) of bool: the pixels that any polygon or box covers, its outline with it."""
    picture = Image.new("L", (side, side), 0)
    pen = ImageDraw.Draw(picture)
    scaled = side / SIDE
    for polygon in polygons:
        pen.polygon([(x * scaled, y * scaled) for x, y in polygon], outline=1, fill=1)
    for x1, y1, x2, y2 in boxes:
        corners = [(x / 100 * side, y / 100 * side)
                   for x, y in ((x1, y1), (x1, y2), (x2, y2), (x2, y1))]
        pen.polygon(corners, outline=1, fill=1)
    return np.asarray(picture, dtype=bool)


def drawn_f1(pairs: Iterable[tuple[np.ndarray, np.ndarray]]) -> float:
    """F1 of all pixels of all images together; pairs: (truth, answer), each as `draw` gives it.

    nan if there is nothing in any truth or answer.
    """
    right = wrong = missed = 0
    for truth, answer in pairs:
        right += int((truth & answer).sum())
        wrong += int((answer & ~truth).sum())
        missed += int((truth & ~answer).sum())
    total = 2 * right + wrong + missed
    return 2 * right / total if total else float("nan")
