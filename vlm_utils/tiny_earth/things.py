"""What stands on the land: one painter for each kind of feature.

A painter of a point feature sees pixel offsets from the feature's centre and its radius, a painter
of a line pixel coordinates along and aside. Both yield layers, bottom one first. They draw their
random shape before they look at the radius, so a lake that grows is the same lake, larger.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from vlm_utils.tiny_earth.canvas import (
    SIDE,
    colours,
    inside,
    noise,
    outline,
    turned,
)

LAKE_BLUE, RIVER_BLUE = (30, 118, 208), (52, 122, 200)


class Layer(NamedTuple):
    """One layer of paint.

    mask: (64, 64), 0 where the layer is absent and 1 where it hides what lies beneath. colour: one
    for all pixels, or (64, 64, 3). is_part: False for what a thing throws around itself, as smoke,
    a wake, a shadow or shallow water; boxes leave it out.
    """

    mask: np.ndarray
    colour: tuple | np.ndarray
    is_part: bool = True


def _lake(rng, x, y, radius):
    distance = np.hypot(x, y) - radius * outline(rng, x, y, 0.35)
    yield Layer(inside(distance), (150, 204, 220))  # shallow shore
    yield Layer(inside(distance + 1.2), LAKE_BLUE)
    yield Layer(0.7 * inside((distance + 4) / 2), (24, 74, 156))  # deep water


def _town(rng, x, y, radius):
    edge = outline(rng, x, y, 0.25)
    roofs = np.array([(200, 48, 36), (236, 228, 218), (172, 40, 34), (218, 78, 56)])
    homes = roofs[rng.integers(len(roofs), size=(12, 12))]
    distance = np.hypot(x, y) - radius * edge
    yield Layer(inside(distance), (206, 200, 192))  # streets
    across, down = np.floor(x / 4).astype(int), np.floor(y / 4).astype(int)  # 4x4 pixels a home
    paint = homes[across % 12, down % 12]
    wall = np.maximum(np.abs(x - 4 * across - 2), np.abs(y - 4 * down - 2)) - 1.5
    shadow = np.maximum(np.abs(x - 4 * across - 2.6), np.abs(y - 4 * down - 2.6)) - 1.5
    within = inside(distance + 0.8)
    yield Layer(0.7 * within * inside(shadow), (62, 58, 62), is_part=False)
    yield Layer(within * inside(wall), paint)


def _fire(rng, x, y, radius):
    wind = rng.uniform(0, 2 * np.pi)
    radius = 0.88 * radius  # burnt ground and flames flicker beyond it
    billows, flicker = noise(rng, 12), noise(rng, 16)
    edge = outline(rng, x, y, 0.6)
    downwind, aside = turned(x, y, wind)
    length = 5 + radius
    width = 1.5 + 0.3 * radius + 0.3 * np.clip(downwind, 0, None)
    plume = np.clip(1 - (aside / width) ** 2, 0, 1) * np.clip(1 - downwind / length, 0, 1)
    plume = plume * (downwind > 0) * (0.9 + 0.3 * billows)
    distance = np.hypot(x, y) - radius * edge * (1 + 0.15 * flicker)
    yield Layer(inside(distance - 0.5), (60, 28, 18))  # burnt ground
    yield Layer(inside(distance + 0.5), (214, 46, 14))
    yield Layer(np.clip(1.4 * plume, 0, 0.85), (226, 222, 220), is_part=False)  # smoke
    yield Layer(inside(distance + 0.25 * radius + 0.5), (255, 122, 16))
    yield Layer(inside(distance + 0.6 * radius), (255, 226, 84))


def _clearing(rng, x, y, radius):
    across, down = turned(x, y, rng.uniform(-0.3, 0.3))
    soil = noise(rng, 14)
    distance = (across ** 6 + down ** 6) ** (1 / 6) - 0.92 * radius
    yield Layer(inside(distance), (134, 106, 64))
    yield Layer(inside(distance + 1), colours((194, 166, 114), (228, 204, 152), 0.5 + 0.5 * soil))
    trails = np.abs((down + radius) % 5 - 2.5) - 0.4
    yield Layer(0.5 * inside(distance + 1.5) * inside(trails), (150, 118, 72))


def _quarry(rng, x, y, radius):
    edge = outline(rng, x, y, 0.2)
    distance = np.hypot(x, y) / edge
    yield Layer(inside(distance - radius), (84, 82, 84))
    depth = np.clip(radius - 0.6 - distance, 0, None) / 2.7  # one terrace each 2.7 pixels
    lip = np.clip(1.5 - 1.7 * (depth % 1), 0, 1)  # each terrace: a light lip, a dark wall
    yield Layer(inside(distance - radius + 0.6), colours((88, 86, 90), (228, 224, 218), lip))


def _solar_farm(rng, x, y, radius):
    across, down = turned(x, y, rng.choice([0, np.pi / 2]))
    field = np.maximum(np.abs(across) - 0.98 * radius, np.abs(down) - 0.9 * radius)
    yield Layer(inside(field), (206, 208, 206))
    rows = np.abs((down + 1.5) % 4 - 1.5) - 1.4
    tables = np.abs(across % 8 - 4) - 3.6
    yield Layer(inside(field + 0.8) * inside(rows) * inside(tables), (18, 24, 84))


def _airport(rng, x, y, radius):
    x, y = x * 11 / radius, y * 11 / radius
    angle = rng.uniform(0, np.pi)
    crossing = angle + rng.uniform(0.9, 1.3)
    shift = rng.uniform(-1, 1)
    runways = []
    for turn, half_length in ((angle, 10), (crossing, 8.5)):
        along, aside = turned(x, y, turn)
        runways.append((np.abs(along) - half_length, along, aside + shift))
    for end, _, aside in runways:
        yield Layer(inside(np.maximum(end - 0.8, np.abs(aside) - 2.6)), (204, 202, 198))
    for end, _, aside in runways:
        yield Layer(inside(np.maximum(end, np.abs(aside) - 1.8)), (62, 62, 68))
    for end, along, aside in runways:
        dashes = np.abs(along % 4 - 2) - 1.1
        dashes = np.maximum(np.maximum(end + 1, np.abs(aside) - 0.5), dashes)
        yield Layer(inside(dashes), (240, 240, 240))


def _island(rng, x, y, radius):
    edge = outline(rng, x, y, 0.35)
    trees = noise(rng, 16)
    distance = np.hypot(x, y) - radius * edge
    yield Layer(0.6 * inside((distance - 1.2) / 1.5), (96, 180, 200), is_part=False)  # shallow
    yield Layer(inside(distance), (240, 216, 158))
    yield Layer(inside(distance + 1.7), colours((46, 106, 44), (96, 156, 70), 0.5 + 0.5 * trees))


def _ship(rng, x, y, radius):
    x, y = x * 8 / radius, y * 8 / radius
    along, aside = turned(x, y, rng.uniform(0, 2 * np.pi))
    behind = np.clip(-along - 1, 0, None)
    fade = (behind > 0) * np.clip(1.3 - behind / 9, 0, 1)
    for side in (-1, 1):
        wave = np.abs(aside - side * (1 + 0.33 * behind)) - 0.7
        yield Layer(0.75 * fade * inside(wave), (214, 232, 240), is_part=False)
    beam = 2.1 * np.clip(1 - np.clip(along, 0, None) / 6.5, 0, 1) ** 0.6  # pointed bow
    hull = np.maximum(np.abs(aside) - beam, np.maximum(-along - 5, along - 6))
    yield Layer(inside(hull), (250, 250, 250))
    yield Layer(inside(np.maximum(np.abs(aside) - 1, np.abs(along + 0.5) - 2.6)), (226, 66, 40))


def _wind_farm(rng, x, y, radius):
    x, y = turned(x * 9.6 / radius, y * 9.6 / radius, rng.uniform(-0.15, 0.15))
    across, down = np.clip(np.round(x / 7), -1, 1), np.clip(np.round(y / 7), -1, 1)
    east, south = x - 7 * across, y - 7 * down  # offsets from the nearest of 3x3 turbines
    reach = np.hypot(east, south) - 2.5
    blades = np.minimum(np.abs(east), np.abs(south)) - 0.75
    yield Layer(0.45 * inside(np.hypot(east - 1.2, south - 1.2) - 1.6), (8, 26, 60), is_part=False)
    yield Layer(inside(np.maximum(reach, blades)), (250, 252, 255))


def _river(rng, along, aside):
    distance = np.full_like(along, rng.uniform(-8, 8))
    slope = np.zeros_like(along)
    for height, waves in ((3.2, rng.uniform(1.2, 1.8)), (1.3, rng.uniform(2.5, 3.5))):
        pace = 2 * np.pi * waves / SIDE
        phase = pace * along + rng.uniform(0, 2 * np.pi)
        distance, slope = distance + height * np.sin(phase), slope + height * pace * np.cos(phase)
    distance = np.abs(aside - distance) / np.sqrt(1 + slope ** 2)
    yield Layer(inside(distance - 2.8), (120, 168, 172))  # banks
    yield Layer(inside(distance - 2.1), RIVER_BLUE)
    yield Layer(0.5 * inside(distance - 0.6), (30, 88, 170))


def _road(rng, along, aside):
    start, end, bend = rng.uniform(-3, 3, size=3) + (*[rng.uniform(-9, 9)] * 2, 0)
    share = along / SIDE
    distance = np.abs(aside - (start + (end - start) * share + bend * share * (1 - share)))
    yield Layer(inside(distance - 2.4), (66, 62, 62))
    yield Layer(inside(distance - 1.5), (214, 210, 206))


POINT_PAINTERS = {"lake": _lake, "town": _town, "fire": _fire, "clearing": _clearing,
                  "quarry": _quarry, "solar farm": _solar_farm, "airport": _airport,
                  "island": _island, "ship": _ship, "wind farm": _wind_farm}
LINE_PAINTERS = {"river": _river, "road": _road}
