"""How TinyEarth looks: one 64x64 tile, painted from above with numpy.

`render` lays the cover first, then the line, then the point features, and photographs the
result under some light, at times through a cloud. `box_of` says where a feature stands on the tile,
read from the very masks that are painted.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from vlm_utils.tiny_earth.canvas import (
    CELL,
    COLUMNS,
    ROWS,
    SIDE,
    blend,
    generator,
    inside,
    noise,
    outline,
    turned,
)
from vlm_utils.tiny_earth.covers import COVER_PAINTERS, VEGETATION, in_season
from vlm_utils.tiny_earth.scenes import CELLS, GRID, LINE_PLACES, Box, Feature, Scene
from vlm_utils.tiny_earth.things import LINE_PAINTERS, POINT_PAINTERS, Layer

RADII = {1: 5.2, 2: 8.8}  # pixels, by size; a feature's own is up to SPREAD more or less
SPREAD = 0.1
# How far a centre lies from that of its cell, in pixels: as far as keeps the largest in the cell,
# since what grows keeps its centre.
OFFSET = 5.4


def render(scene: Scene, site_seed: int, light_seed: int, season: str = "summer",
           cloud: Box | None = None) -> np.ndarray:
    """Paint a `Scene` as a (64, 64, 3) uint8 RGB tile, the same one for the same arguments.

    site_seed fixes everything that stands on the ground: texture, field layout, outlines, the
    offset of a feature in its cell. light_seed fixes what changes from one photograph to the
    next: brightness, contrast, tint, haze, sensor noise, at times a thin wisp of cloud.
    season: "summer", or one of SEASONS, which colours vegetation. cloud: the box, in per cent of
    the tile, that a thick cloud fills.
    """
    tile = COVER_PAINTERS[scene.cover](generator(site_seed, scene.cover))
    if season != "summer" and scene.cover in VEGETATION:
        tile = in_season(tile, season)
    # Lines lie under everything; the smoke of a fire must not hide a neighbour.
    layers_below = ("river", "road", "fire")
    for feature in sorted(scene.features, key=lambda feature: feature.kind not in layers_below):
        for layer in _layers(feature, site_seed):
            tile = blend(tile, layer.mask, layer.colour)
    if cloud is not None:
        billows = noise(generator(light_seed, "billows"), 8)
        tile = blend(tile, 0.97 * cloud_mask(cloud, light_seed),
                     (236, 240, 246) + 12 * billows[..., None])
    return _photograph(tile, generator(light_seed, "light"))


def cell_center(place: str) -> np.ndarray:
    """The (row, column) of the centre of one of the four cells, in pixels."""
    row, column = divmod(CELLS.index(place), GRID)
    return (np.array([row, column]) + 0.5) * CELL


def feature_mask(feature: Feature, site_seed: int) -> np.ndarray:
    """Where a feature itself is painted, (64, 64) of bool: no smoke, wake, shadow, shallows."""
    return np.any([layer.mask > 0.5 for layer in _layers(feature, site_seed) if layer.is_part],
                  axis=0)


def box_of(feature: Feature, site_seed: int) -> Box:
    """The box (x1, y1, x2, y2) that a feature fills at a site, in per cent of the tile."""
    mask = feature_mask(feature, site_seed)
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return tuple(round(100 * int(edge) / SIDE) for edge in (
        columns[0], rows[0], columns[-1] + 1, rows[-1] + 1))


def with_boxes(scene: Scene, site_seed: int) -> Scene:
    """The scene with the box of each feature, as `render` paints it at that site."""
    return Scene(scene.cover, tuple(replace(feature, box=box_of(feature, site_seed))
                                    for feature in scene.features))


def cloud_mask(cloud: Box, light_seed: int) -> np.ndarray:
    """How far a cloud that fills a box hides each pixel, (64, 64), from 0 to 1."""
    left, top, right, bottom = (edge * SIDE / 100 for edge in cloud)
    x = (COLUMNS - (left + right) / 2) / ((right - left) / 2)       # -1 to 1 within the box
    y = (ROWS - (top + bottom) / 2) / ((bottom - top) / 2)
    edge = outline(generator(light_seed, "cloud"), x, y, 0.3) / 1.05
    return inside((np.hypot(x, y) - edge) * min(right - left, bottom - top) / 4 + 0.5)


def _layers(feature: Feature, site_seed: int) -> Iterator[Layer]:
    """A feature's layers of paint at a site, the bottom one first."""
    rng = generator(site_seed, feature.kind)
    if feature.place in LINE_PLACES:
        return LINE_PAINTERS[feature.kind](rng, *_along_line(feature.place))
    down, right = cell_center(feature.place) + rng.uniform(-OFFSET, OFFSET, size=2)
    radius = RADII[feature.size] * rng.uniform(1 - SPREAD, 1 + SPREAD)
    return POINT_PAINTERS[feature.kind](rng, COLUMNS - right, ROWS - down, radius)


def _along_line(place):
    """Pixel coordinates (along, aside) of a line: aside is 0 in the middle of its cells."""
    number = LINE_PLACES.index(place)
    middle = (number % GRID + 0.5) * CELL
    return (COLUMNS, ROWS - middle) if number < GRID else (ROWS, COLUMNS - middle)


def _photograph(tile, rng):
    """Vary the light on a tile of floats and round it to uint8."""
    contrast, gain, offset = rng.uniform(0.9, 1.1), rng.uniform(0.9, 1.1), rng.uniform(-6, 6)
    tint = 1 + rng.uniform(-0.035, 0.035, size=3)
    tile = ((tile - 128) * contrast + 128) * gain * tint + offset
    tile = blend(tile, np.full((SIDE, SIDE), rng.uniform(0, 0.14)), (214, 220, 228))  # haze
    if rng.random() < 0.2:  # a wisp of cloud, too thin to hide what lies under it
        across, aside = turned(COLUMNS - 32, ROWS - 32, rng.uniform(0, np.pi))
        streak = np.exp(-((aside - rng.uniform(-20, 20) + 5 * noise(rng, 3)) / 6) ** 2)
        tile = blend(tile, 0.28 * streak * (0.7 + 0.3 * noise(rng, 6)), (244, 246, 250))
    grain = rng.normal(scale=rng.uniform(1, 2.5), size=tile.shape)
    return np.clip(np.round(tile + grain), 0, 255).astype(np.uint8)
