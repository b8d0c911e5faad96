"""Turned tiles: a view from above has no up or down, so every tile is true in 8 orientations."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import torch
from PIL import Image
from torch import Tensor

from vlm_utils.tiny_earth.scenes import CELLS, GRID, LINE_PLACES, Scene, cells_on_line


def turn_tensor(image: Tensor, turn: int) -> Tensor:
    """(..., side, side) in one of its eight orientations: 4 quarter turns, then mirrored."""
    image = torch.rot90(image, turn % 4, (-2, -1))
    return image.flip(-1) if turn >= 4 else image


def turn_image(picture: Image.Image, turn: int) -> Image.Image:
    """A PIL image in the same orientation as turn_tensor's."""
    picture = picture.rotate(90 * (turn % 4), expand=True)
    return picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if turn >= 4 else picture


@cache
def _new_places(turn: int) -> dict[str, str]:
    """Where each cell and each line of a tile lies after the turn."""
    old = turn_tensor(torch.arange(GRID * GRID).view(GRID, GRID), turn).flatten().tolist()
    cells = {CELLS[before]: CELLS[after] for after, before in enumerate(old)}
    lines = {frozenset(cells_on_line(line)): line for line in LINE_PLACES}
    return cells | {line: lines[frozenset(cells[cell] for cell in cells_on_line(line))]
                    for line in LINE_PLACES}


def turn_scene(scene: Scene, turn: int) -> Scene:
    """The scene of a turned tile."""
    places = _new_places(turn)
    return Scene(scene.cover, tuple(
        replace(feature, place=places[feature.place]) for feature in scene.features))
