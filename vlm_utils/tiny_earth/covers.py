"""What covers the land: one painter for each cover, and the seasons that colour what grows."""

from __future__ import annotations

import numpy as np

from vlm_utils.tiny_earth.canvas import (
    COLUMNS,
    ROWS,
    SIDE,
    colours,
    noise,
    turned,
)

# What a season does to the colours of vegetation: how much of them is left, the rest being grey,
# and how red, green and blue are multiplied. Summer is as painted.
SEASONS = {"spring": (1.0, (0.88, 1.08, 0.84)), "autumn": (1.0, (1.2, 0.96, 0.68)),
           "winter": (0.5, (1.04, 0.97, 0.86))}
VEGETATION = ("forest", "cropland", "grassland")


def in_season(tile: np.ndarray, season: str) -> np.ndarray:
    """The colours that vegetation, a (64, 64, 3) tile of floats, has in a season."""
    left, gains = SEASONS[season]
    grey = tile.mean(axis=-1, keepdims=True)
    return (left * tile + (1 - left) * grey) * np.asarray(gains)


def _forest(rng):
    spacing = 5.0
    corners = np.arange(-1, SIDE / spacing + 1) * spacing
    trees = np.stack(np.meshgrid(corners, corners), axis=-1).reshape(-1, 2)
    trees = trees + rng.uniform(0, spacing, size=trees.shape)
    crowns, nearest = np.full((SIDE, SIDE), 99.0), np.zeros((SIDE, SIDE), dtype=int)
    for number, (across, down) in enumerate(trees):
        distance = np.hypot(COLUMNS - across, ROWS - down)
        nearest = np.where(distance < crowns, number, nearest)
        crowns = np.minimum(distance, crowns)
    # Sun from the top left: the lit side of each crown is lighter.
    lit = (trees[nearest, 0] - COLUMNS + trees[nearest, 1] - ROWS) / 6
    species = rng.uniform(-0.2, 0.2, size=len(trees))[nearest] + 0.2 * noise(rng, 4)
    shade = 0.79 - 0.16 * crowns + 0.22 * lit + species
    return colours((12, 44, 22), (52, 108, 48), np.clip(shade, 0, 1.1))


def _cropland(rng):
    palette = np.array([(146, 172, 74), (108, 152, 66), (198, 188, 92), (216, 202, 124),
                        (170, 182, 82), (128, 140, 66), (182, 156, 94)], dtype=float)
    tile = np.zeros((SIDE, SIDE, 3))
    previous = -1
    fields = [(0, 0, SIDE, SIDE)]
    while fields:
        top, left, height, width = fields.pop()
        if max(height, width) > 24 or max(height, width) > 16 and rng.random() < 0.6:
            cut = int(round(max(height, width) * rng.uniform(0.38, 0.62)))
            if height >= width:
                fields += [(top, left, cut, width), (top + cut, left, height - cut, width)]
            else:
                fields += [(top, left, height, cut), (top, left + cut, height, width - cut)]
            continue
        choice = (previous + rng.integers(1, len(palette))) % len(palette)  # unlike the last one
        previous = choice
        across = rng.random() < 0.5
        furrows = 7 * np.sin((ROWS if across else COLUMNS) * 2 * np.pi / 4)
        area = np.s_[top:top + height, left:left + width]
        tile[area] = palette[choice] + furrows[area][..., None]
        tile[top, left:left + width] = tile[top:top + height, left] = (92, 104, 58)  # hedges
    return tile + 5 * noise(rng, 5)[..., None]


def _grassland(rng):
    meadow = 0.5 + 0.35 * noise(rng, 4) + 0.2 * noise(rng, 11)
    return colours((128, 178, 92), (168, 208, 124), meadow)


def _desert(rng):
    angle = rng.uniform(0, np.pi)
    along, _ = turned(COLUMNS, ROWS, angle)
    phase = 2 * np.pi * along / rng.uniform(7.5, 9.5) + 2.2 * noise(rng, 3)
    ripples = np.sin(phase + 0.6 * np.sin(phase))  # steeper on the side away from the wind
    return colours((196, 154, 96), (238, 204, 146), 0.5 + 0.4 * ripples + 0.15 * noise(rng, 4))


def _snow(rng):
    drifts = noise(rng, 4) + 0.5 * noise(rng, 8)
    slope = np.gradient(drifts)
    shade = 0.68 + 2.4 * (slope[0] + slope[1]) + 0.12 * drifts
    return colours((176, 194, 224), (244, 248, 252), np.clip(shade, 0, 1))


def _mountain(rng):
    height = np.full((SIDE, SIDE), -99.0)
    for across, down in rng.uniform(-4, SIDE + 4, size=(16, 2)):
        x, y = COLUMNS - across, ROWS - down
        spurs, phase = rng.integers(3, 6), rng.uniform(0, 2 * np.pi)
        ridges = 1 + 0.3 * np.abs(np.sin(spurs * np.arctan2(y, x) / 2 + phase))
        height = np.maximum(height, rng.uniform(8, 15) - 0.8 * np.hypot(x, y) * ridges)
    slope = np.gradient(height + 1.2 * noise(rng, 9))
    light = 0.5 + 0.5 * np.tanh(0.8 * (slope[0] + slope[1]) + 0.035 * height - 0.15)
    return colours((62, 54, 54), (172, 160, 148), light)


def _water(rng):
    angle = rng.uniform(0, np.pi)
    along, _ = turned(COLUMNS, ROWS, angle)
    waves = np.sin(2 * np.pi * along / 6 + 3 * noise(rng, 5)) * (0.6 + 0.4 * noise(rng, 6))
    return colours((14, 50, 104), (38, 88, 150), 0.42 + 0.42 * waves + 0.2 * noise(rng, 3))


COVER_PAINTERS = {"forest": _forest, "cropland": _cropland, "grassland": _grassland,
                  "desert": _desert, "snow": _snow, "mountain": _mountain, "water": _water}
