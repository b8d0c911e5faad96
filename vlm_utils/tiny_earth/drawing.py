"""How TinyEarth looks: one 64x64 tile, painted from above with numpy.

`render` lays the cover first, then the line, then the point features, and photographs the
result under some light. A painter of a feature sees pixel offsets from the feature's centre and
yields layers `(mask, colour)`, bottom one first; the mask is 0 where the layer is absent and 1
where it hides what lies beneath. Painters draw their random shape before they look at the radius,
so a lake that grows is the same lake, larger.
"""

from __future__ import annotations

import zlib

import numpy as np

from vlm_utils.tiny_earth.scenes import CELLS, GRID, LINE_PLACES

SIDE = 64
CELL = SIDE / GRID  # pixels
RADII = {1: 6.0, 2: 12.5}  # pixels, by size
ROWS, COLUMNS = np.mgrid[0:SIDE, 0:SIDE] + 0.5  # the centre of each pixel
LAKE_BLUE, RIVER_BLUE = (30, 118, 208), (52, 122, 200)


def render(scene, place_seed: int, light_seed: int) -> np.ndarray:
    """Paint a `Scene` as a (64, 64, 3) uint8 RGB tile, the same one for the same arguments.

    place_seed fixes everything that stands on the ground: texture, field layout, outlines, the
    offset of a feature in its cell. light_seed fixes what changes from one photograph to the
    next: brightness, contrast, tint, haze, sensor noise, at times a thin wisp of cloud.
    """
    tile = COVER_PAINTERS[scene.cover](_generator(place_seed, scene.cover))
    # Lines lie under everything; the smoke of a fire must not hide a neighbour.
    layers_below = ("river", "road", "fire")
    for feature in sorted(scene.features, key=lambda feature: feature.kind not in layers_below):
        rng = _generator(place_seed, feature.kind)
        if feature.place in LINE_PLACES:
            layers = LINE_PAINTERS[feature.kind](rng, *_along_line(feature.place))
        else:
            down, right = cell_center(feature.place) + rng.uniform(-2, 2, size=2)
            layers = POINT_PAINTERS[feature.kind](
                rng, COLUMNS - right, ROWS - down, RADII[feature.size])
        for mask, colour in layers:
            tile = _blend(tile, mask, colour)
    return _photograph(tile, _generator(light_seed, "light"))


def cell_center(place: str) -> np.ndarray:
    """The (row, column) of the centre of one of the four cells, in pixels."""
    row, column = divmod(CELLS.index(place), GRID)
    return (np.array([row, column]) + 0.5) * CELL


def _generator(seed: int, purpose: str) -> np.random.Generator:
    """Independent random numbers for each purpose: a new lake leaves the town as it was."""
    return np.random.default_rng([seed, zlib.crc32(purpose.encode())])


def _blend(tile, mask, colour):
    return tile + mask[..., None] * (np.asarray(colour, dtype=float) - tile)


def _colours(low, high, amount):
    """Mix two colours: amount (64, 64), 0 for low and 1 for high, gives (64, 64, 3)."""
    return np.asarray(low) + amount[..., None] * (np.asarray(high, dtype=float) - low)


def _inside(distance):
    """A mask with a soft edge of one pixel, from a signed distance (negative inside)."""
    return np.clip(0.5 - distance, 0, 1)


def _noise(rng, cells):
    """Smooth random hills, (64, 64), about -1 to 1: a random grid of cells, interpolated."""
    position = np.linspace(0, cells - 1e-6, SIDE)
    lower = position.astype(int)
    fraction = position - lower
    fraction = fraction ** 2 * (3 - 2 * fraction)  # no creases at the grid lines
    weights = np.zeros((SIDE, cells + 1))
    weights[np.arange(SIDE), lower] = 1 - fraction
    weights[np.arange(SIDE), lower + 1] = fraction
    return weights @ rng.uniform(-1, 1, size=(cells + 1, cells + 1)) @ weights.T


def _turned(x, y, angle):
    return x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)


def _outline(rng, x, y, roughness):
    """How far a random closed outline reaches in the direction of each pixel; at most 1.05."""
    angle = np.arctan2(y, x)
    reach = np.ones_like(angle)
    for waves in (2, 3, 5):
        reach = reach + roughness / waves * np.cos(waves * angle + rng.uniform(0, 2 * np.pi))
    return 1.05 * reach / reach.max()


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
    species = rng.uniform(-0.2, 0.2, size=len(trees))[nearest] + 0.2 * _noise(rng, 4)
    shade = 0.79 - 0.16 * crowns + 0.22 * lit + species
    return _colours((12, 44, 22), (52, 108, 48), np.clip(shade, 0, 1.1))


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
    return tile + 5 * _noise(rng, 5)[..., None]


def _grassland(rng):
    meadow = 0.5 + 0.35 * _noise(rng, 4) + 0.2 * _noise(rng, 11)
    return _colours((128, 178, 92), (168, 208, 124), meadow)


def _desert(rng):
    angle = rng.uniform(0, np.pi)
    along, _ = _turned(COLUMNS, ROWS, angle)
    phase = 2 * np.pi * along / rng.uniform(7.5, 9.5) + 2.2 * _noise(rng, 3)
    ripples = np.sin(phase + 0.6 * np.sin(phase))  # steeper on the side away from the wind
    return _colours((196, 154, 96), (238, 204, 146), 0.5 + 0.4 * ripples + 0.15 * _noise(rng, 4))


def _snow(rng):
    drifts = _noise(rng, 4) + 0.5 * _noise(rng, 8)
    slope = np.gradient(drifts)
    shade = 0.68 + 2.4 * (slope[0] + slope[1]) + 0.12 * drifts
    return _colours((176, 194, 224), (244, 248, 252), np.clip(shade, 0, 1))


def _mountain(rng):
    height = np.full((SIDE, SIDE), -99.0)
    for across, down in rng.uniform(-4, SIDE + 4, size=(16, 2)):
        x, y = COLUMNS - across, ROWS - down
        spurs, phase = rng.integers(3, 6), rng.uniform(0, 2 * np.pi)
        ridges = 1 + 0.3 * np.abs(np.sin(spurs * np.arctan2(y, x) / 2 + phase))
        height = np.maximum(height, rng.uniform(8, 15) - 0.8 * np.hypot(x, y) * ridges)
    slope = np.gradient(height + 1.2 * _noise(rng, 9))
    light = 0.5 + 0.5 * np.tanh(0.8 * (slope[0] + slope[1]) + 0.035 * height - 0.15)
    return _colours((62, 54, 54), (172, 160, 148), light)


def _water(rng):
    angle = rng.uniform(0, np.pi)
    along, _ = _turned(COLUMNS, ROWS, angle)
    waves = np.sin(2 * np.pi * along / 6 + 3 * _noise(rng, 5)) * (0.6 + 0.4 * _noise(rng, 6))
    return _colours((14, 50, 104), (38, 88, 150), 0.42 + 0.42 * waves + 0.2 * _noise(rng, 3))


def _lake(rng, x, y, radius):
    distance = np.hypot(x, y) - radius * _outline(rng, x, y, 0.35)
    yield _inside(distance), (150, 204, 220)  # shallow shore
    yield _inside(distance + 1.2), LAKE_BLUE
    yield 0.7 * _inside((distance + 4) / 2), (24, 74, 156)  # deep water


def _town(rng, x, y, radius):
    edge = _outline(rng, x, y, 0.25)
    roofs = np.array([(200, 48, 36), (236, 228, 218), (172, 40, 34), (218, 78, 56)])
    homes = roofs[rng.integers(len(roofs), size=(12, 12))]
    distance = np.hypot(x, y) - radius * edge
    yield _inside(distance), (206, 200, 192)  # streets
    across, down = np.floor(x / 4).astype(int), np.floor(y / 4).astype(int)  # 4x4 pixels a home
    colours = homes[across % 12, down % 12]
    wall = np.maximum(np.abs(x - 4 * across - 2), np.abs(y - 4 * down - 2)) - 1.5
    shadow = np.maximum(np.abs(x - 4 * across - 2.6), np.abs(y - 4 * down - 2.6)) - 1.5
    within = _inside(distance + 0.8)
    yield 0.7 * within * _inside(shadow), (62, 58, 62)
    yield within * _inside(wall), colours


def _fire(rng, x, y, radius):
    wind = rng.uniform(0, 2 * np.pi)
    billows, flicker = _noise(rng, 12), _noise(rng, 16)
    edge = _outline(rng, x, y, 0.6)
    downwind, aside = _turned(x, y, wind)
    length = 5 + radius
    width = 1.5 + 0.3 * radius + 0.3 * np.clip(downwind, 0, None)
    plume = np.clip(1 - (aside / width) ** 2, 0, 1) * np.clip(1 - downwind / length, 0, 1)
    plume = plume * (downwind > 0) * (0.9 + 0.3 * billows)
    distance = np.hypot(x, y) - radius * edge * (1 + 0.15 * flicker)
    yield _inside(distance - 0.5), (60, 28, 18)  # burnt ground
    yield _inside(distance + 0.5), (214, 46, 14)
    yield np.clip(1.4 * plume, 0, 0.85), (226, 222, 220)
    yield _inside(distance + 0.25 * radius + 0.5), (255, 122, 16)
    yield _inside(distance + 0.6 * radius), (255, 226, 84)


def _clearing(rng, x, y, radius):
    across, down = _turned(x, y, rng.uniform(-0.3, 0.3))
    soil = _noise(rng, 14)
    distance = (across ** 6 + down ** 6) ** (1 / 6) - 0.92 * radius
    yield _inside(distance), (134, 106, 64)
    yield _inside(distance + 1), _colours((194, 166, 114), (228, 204, 152), 0.5 + 0.5 * soil)
    trails = np.abs((down + radius) % 5 - 2.5) - 0.4
    yield 0.5 * _inside(distance + 1.5) * _inside(trails), (150, 118, 72)


def _quarry(rng, x, y, radius):
    edge = _outline(rng, x, y, 0.2)
    distance = np.hypot(x, y) / edge
    yield _inside(distance - radius), (84, 82, 84)
    depth = np.clip(radius - 0.6 - distance, 0, None) / 2.7  # one terrace each 2.7 pixels
    lip = np.clip(1.5 - 1.7 * (depth % 1), 0, 1)  # each terrace: a light lip, a dark wall
    yield _inside(distance - radius + 0.6), _colours((88, 86, 90), (228, 224, 218), lip)


def _solar_farm(rng, x, y, radius):
    across, down = _turned(x, y, rng.choice([0, np.pi / 2]))
    field = np.maximum(np.abs(across) - 0.98 * radius, np.abs(down) - 0.9 * radius)
    yield _inside(field), (206, 208, 206)
    rows = np.abs((down + 1.5) % 4 - 1.5) - 1.4
    tables = np.abs(across % 8 - 4) - 3.6
    yield _inside(field + 0.8) * _inside(rows) * _inside(tables), (18, 24, 84)


def _airport(rng, x, y, radius):
    x, y = x / 1.3, y / 1.3
    angle = rng.uniform(0, np.pi)
    crossing = angle + rng.uniform(0.9, 1.3)
    shift = rng.uniform(-1, 1)
    runways = []
    for turn, half_length in ((angle, 10), (crossing, 8.5)):
        along, aside = _turned(x, y, turn)
        runways.append((np.abs(along) - half_length, along, aside + shift))
    for end, _, aside in runways:
        yield _inside(np.maximum(end - 0.8, np.abs(aside) - 2.6)), (204, 202, 198)
    for end, _, aside in runways:
        yield _inside(np.maximum(end, np.abs(aside) - 1.8)), (62, 62, 68)
    for end, along, aside in runways:
        dashes = np.abs(along % 4 - 2) - 1.1
        yield _inside(np.maximum(np.maximum(end + 1, np.abs(aside) - 0.5), dashes)), (240, 240, 240)


def _island(rng, x, y, radius):
    edge = _outline(rng, x, y, 0.35)
    trees = _noise(rng, 16)
    distance = np.hypot(x, y) - radius * edge
    yield 0.6 * _inside((distance - 1.2) / 1.5), (96, 180, 200)  # shallow water
    yield _inside(distance), (240, 216, 158)
    yield _inside(distance + 1.7), _colours((46, 106, 44), (96, 156, 70), 0.5 + 0.5 * trees)


def _ship(rng, x, y, radius):
    x, y = x / 1.3, y / 1.3
    along, aside = _turned(x, y, rng.uniform(0, 2 * np.pi))
    behind = np.clip(-along - 1, 0, None)
    fade = (behind > 0) * np.clip(1.3 - behind / 9, 0, 1)
    for side in (-1, 1):
        wave = np.abs(aside - side * (1 + 0.33 * behind)) - 0.7
        yield 0.75 * fade * _inside(wave), (214, 232, 240)
    beam = 2.1 * np.clip(1 - np.clip(along, 0, None) / 6.5, 0, 1) ** 0.6  # pointed bow
    hull = np.maximum(np.abs(aside) - beam, np.maximum(-along - 5, along - 6))
    yield _inside(hull), (250, 250, 250)
    yield _inside(np.maximum(np.abs(aside) - 1, np.abs(along + 0.5) - 2.6)), (226, 66, 40)


def _wind_farm(rng, x, y, radius):
    x, y = _turned(x / 1.4, y / 1.4, rng.uniform(-0.15, 0.15))
    across, down = np.clip(np.round(x / 7), -1, 1), np.clip(np.round(y / 7), -1, 1)
    east, south = x - 7 * across, y - 7 * down  # offsets from the nearest of 3x3 turbines
    reach = np.hypot(east, south) - 2.5
    blades = np.minimum(np.abs(east), np.abs(south)) - 0.55
    yield 0.45 * _inside(np.hypot(east - 1.2, south - 1.2) - 1.6), (8, 26, 60)
    yield _inside(np.maximum(reach, blades)), (250, 252, 255)


def _along_line(place):
    """Pixel coordinates (along, aside) of a line: aside is 0 in the middle of its cells."""
    number = LINE_PLACES.index(place)
    middle = (number % GRID + 0.5) * CELL
    return (COLUMNS, ROWS - middle) if number < GRID else (ROWS, COLUMNS - middle)


def _river(rng, along, aside):
    distance = np.full_like(along, rng.uniform(-1, 1))
    slope = np.zeros_like(along)
    for height, waves in ((3.2, rng.uniform(1.2, 1.8)), (1.3, rng.uniform(2.5, 3.5))):
        pace = 2 * np.pi * waves / SIDE
        phase = pace * along + rng.uniform(0, 2 * np.pi)
        distance, slope = distance + height * np.sin(phase), slope + height * pace * np.cos(phase)
    distance = np.abs(aside - distance) / np.sqrt(1 + slope ** 2)
    yield _inside(distance - 2.8), (120, 168, 172)  # banks
    yield _inside(distance - 2.1), RIVER_BLUE
    yield 0.5 * _inside(distance - 0.6), (30, 88, 170)


def _road(rng, along, aside):
    start, end, bend = rng.uniform(-3, 3, size=3)
    share = along / SIDE
    distance = np.abs(aside - (start + (end - start) * share + bend * share * (1 - share)))
    yield _inside(distance - 2.4), (66, 62, 62)
    yield _inside(distance - 1.5), (214, 210, 206)


def _photograph(tile, rng):
    """Vary the light on a tile of floats and round it to uint8."""
    contrast, gain, offset = rng.uniform(0.9, 1.1), rng.uniform(0.9, 1.1), rng.uniform(-6, 6)
    tint = 1 + rng.uniform(-0.035, 0.035, size=3)
    tile = ((tile - 128) * contrast + 128) * gain * tint + offset
    tile = _blend(tile, np.full((SIDE, SIDE), rng.uniform(0, 0.14)), (214, 220, 228))  # haze
    if rng.random() < 0.2:  # a wisp of cloud, too thin to hide what lies under it
        across, aside = _turned(COLUMNS - 32, ROWS - 32, rng.uniform(0, np.pi))
        streak = np.exp(-((aside - rng.uniform(-20, 20) + 5 * _noise(rng, 3)) / 6) ** 2)
        tile = _blend(tile, 0.28 * streak * (0.7 + 0.3 * _noise(rng, 6)), (244, 246, 250))
    noise = rng.normal(scale=rng.uniform(1, 2.5), size=tile.shape)
    return np.clip(np.round(tile + noise), 0, 255).astype(np.uint8)


COVER_PAINTERS = {"forest": _forest, "cropland": _cropland, "grassland": _grassland,
                  "desert": _desert, "snow": _snow, "mountain": _mountain, "water": _water}
POINT_PAINTERS = {"lake": _lake, "town": _town, "fire": _fire, "clearing": _clearing,
                  "quarry": _quarry, "solar farm": _solar_farm, "airport": _airport,
                  "island": _island, "ship": _ship, "wind farm": _wind_farm}
LINE_PAINTERS = {"river": _river, "road": _road}
