"""What the painters of TinyEarth share: pixel coordinates, masks, noise, random numbers."""

from __future__ import annotations

import zlib

import numpy as np

from vlm_utils.tiny_earth.scenes import GRID

SIDE = 64  # pixels
CELL = SIDE / GRID  # pixels
ROWS, COLUMNS = np.mgrid[0:SIDE, 0:SIDE] + 0.5  # the centre of each pixel


def generator(seed: int, purpose: str) -> np.random.Generator:
    """Independent random numbers for each purpose: a new lake leaves the town as it was."""
    return np.random.default_rng([seed, zlib.crc32(purpose.encode())])


def blend(tile, mask, colour):
    return tile + mask[..., None] * (np.asarray(colour, dtype=float) - tile)


def colours(low, high, amount):
    """Mix two colours: amount (64, 64), 0 for low and 1 for high, gives (64, 64, 3)."""
    return np.asarray(low) + amount[..., None] * (np.asarray(high, dtype=float) - low)


def inside(distance):
    """A mask with a soft edge of one pixel, from a signed distance (negative inside)."""
    return np.clip(0.5 - distance, 0, 1)


def noise(rng, cells):
    """Smooth random hills, (64, 64), about -1 to 1: a random grid of cells, interpolated."""
    position = np.linspace(0, cells - 1e-6, SIDE)
    lower = position.astype(int)
    fraction = position - lower
    fraction = fraction ** 2 * (3 - 2 * fraction)  # no creases at the grid lines
    weights = np.zeros((SIDE, cells + 1))
    weights[np.arange(SIDE), lower] = 1 - fraction
    weights[np.arange(SIDE), lower + 1] = fraction
    return weights @ rng.uniform(-1, 1, size=(cells + 1, cells + 1)) @ weights.T


def turned(x, y, angle):
    return x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)


def outline(rng, x, y, roughness):
    """How far a random closed outline reaches in the direction of each pixel; at most 1.05."""
    angle = np.arctan2(y, x)
    reach = np.ones_like(angle)
    for waves in (2, 3, 5):
        reach = reach + roughness / waves * np.cos(waves * angle + rng.uniform(0, 2 * np.pi))
    return 1.05 * reach / reach.max()
