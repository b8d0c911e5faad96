"""What can stand on a tile of TinyEarth, and where: covers, features, scenes.

A tile is divided into 2 x 2 cells. A point feature (a lake, a town) stands in one cell, a line (a
river, a road) passes two of them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field

GRID = 2  # rows and columns of cells
CELLS = ("top left", "top right", "bottom left", "bottom right")
LINE_PLACES = ("across the top", "across the bottom", "down the left", "down the right")


def cells_on_line(place: str) -> tuple[str, ...]:
    """The two cells that a line passes: "across the top" passes the whole top row."""
    number = LINE_PLACES.index(place)
    if number < GRID:
        return CELLS[GRID * number:GRID * (number + 1)]
    return CELLS[number - GRID::GRID]


POINT_KINDS = {  # what can stand at one place of each cover
    "forest": ("lake", "town", "fire", "clearing", "quarry"),
    "cropland": ("lake", "town", "fire", "solar farm", "airport"),
    "grassland": ("lake", "town", "fire", "quarry", "solar farm", "airport"),
    "desert": ("lake", "town", "quarry", "solar farm", "airport"),
    "snow": ("lake", "town", "quarry", "airport"),
    "mountain": ("lake", "town", "fire", "quarry"),
    "water": ("island", "ship", "wind farm"),
}
COVERS = tuple(POINT_KINDS)
LINE_KINDS = ("river", "road")
MOVING_KINDS = ("ship", "fire")
SIZED_KINDS = ("lake", "town", "fire", "clearing", "quarry", "solar farm", "island")
KINDS = SIZED_KINDS + ("airport", "ship", "wind farm") + LINE_KINDS
Box = tuple[int, int, int, int]  # x1, y1, x2, y2 in per cent of the tile's width and height


@dataclass(frozen=True)
class Feature:
    """Something that stands on the ground: its kind, its place and its size, 1 (small) or 2.

    box: what it fills of the tile, if known. It says no more than where the painter put it, so two
    features that differ in it alone are equal.
    """

    kind: str
    place: str
    size: int = 2
    box: Box | None = field(default=None, compare=False)


@dataclass(frozen=True)
class Scene:
    """The ground truth of one tile: a cover and its features, kept in reading order of places.

    Raises ValueError, naming what is wrong, where this world has no such scene: an unknown or
    misplaced kind, two of a kind, two lines, two features in one cell.
    """

    cover: str
    features: tuple[Feature, ...] = ()

    def __post_init__(self):
        _check(self)
        order = (CELLS + LINE_PLACES).index
        ordered = tuple(sorted(self.features, key=lambda feature: order(feature.place)))
        object.__setattr__(self, "features", ordered)

    def to_json(self) -> str:
        """The scene as one line of JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Scene:
        """Read `to_json` back. Raises ValueError naming what is wrong with the text."""
        try:
            record = json.loads(text)
        except (TypeError, json.JSONDecodeError) as error:
            raise ValueError(f"a scene is not JSON: {error}") from error
        _check_keys(record, {"cover", "features"}, "a scene")
        if not isinstance(record["features"], list):
            raise ValueError(f"features are not a list: {record['features']!r}")
        for feature in record["features"]:
            _check_keys(feature, {"kind", "place", "size"}, "a feature", optional={"box"})
            feature["box"] = _read_box(feature.get("box"))
        return cls(record["cover"], tuple(Feature(**feature) for feature in record["features"]))


def allowed_kinds(cover: str) -> tuple[str, ...]:
    """The kinds of feature that can stand on a cover: point features, then lines."""
    if cover not in COVERS:
        raise ValueError(f"unknown cover {cover!r}, not one of {COVERS}")
    return POINT_KINDS[cover] + (() if cover == "water" else LINE_KINDS)


def _check_keys(record, keys, what, optional=frozenset()):
    if not isinstance(record, dict) or set(record) - optional != keys:
        raise ValueError(f"{what} is not a record of {sorted(keys)}: {record!r}")


def _read_box(edges):
    """A box out of JSON, checked: whole numbers, the left edge left of the right one."""
    if edges is None:
        return None
    if not isinstance(edges, list) or [type(edge) for edge in edges] != [int] * 4 or not (
            0 <= edges[0] < edges[2] <= 100 and 0 <= edges[1] < edges[3] <= 100):
        raise ValueError(f"a box is [x1, y1, x2, y2], whole numbers from 0 to 100, not {edges!r}")
    return tuple(edges)


def _check(scene):
    kinds_here = allowed_kinds(scene.cover)
    taken = set()
    for feature in scene.features:
        if feature.kind not in kinds_here:
            raise ValueError(f"no {feature.kind!r} on {scene.cover}, only {kinds_here}")
        places = LINE_PLACES if feature.kind in LINE_KINDS else CELLS
        if feature.place not in places:
            raise ValueError(f"no {feature.kind} at {feature.place!r}, only at {places}")
        sizes = (1, 2) if feature.kind in SIZED_KINDS else (2,)
        if type(feature.size) is not int or feature.size not in sizes:
            raise ValueError(f"no {feature.kind} of size {feature.size!r}, only {sizes}")
        group = "line" if feature.kind in LINE_KINDS else feature.kind
        for claim in (group, *_cells(feature)):
            if claim in taken:
                raise ValueError(f"two features claim the {claim}: {scene.features}")
            taken.add(claim)


def _cells(feature):
    return cells_on_line(feature.place) if feature.kind in LINE_KINDS else (feature.place,)


def free_cells(features: Iterable[Feature]) -> tuple[str, ...]:
    """The cells, of the four, in which none of the features stands and which no line passes."""
    taken = {cell for feature in features for cell in _cells(feature)}
    return tuple(place for place in CELLS if place not in taken)
