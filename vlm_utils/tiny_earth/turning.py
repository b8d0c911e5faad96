"""Turned tiles: a view from above has no up or down, so every tile is true in 8 orientations."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import torch
from PIL import Image
from torch import Tensor

from vlm_utils.tiny_earth.scenes import CELLS, GRID, LINE_PLACES, Box, Scene, cells_on_line


def turn_tensor(image: Tensor, orientation: int) -> Tensor:
    """(..., side, side) in one of its eight orientations: 4 quarter turns, then mirrored."""
    image = torch.rot90(image, orientation % 4, (-2, -1))
    return image.flip(-1) if orientation >= 4 else image


def turn_image(picture: Image.Image, orientation: int) -> Image.Image:
    """A PIL image in the same orientation as turn_tensor's."""
    picture = picture.rotate(90 * (orientation % 4), expand=True)
    return picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if orientation >= 4 else picture


@cache
def _new_places(orientation: int) -> dict[str, str]:
    """Where each cell and each line of a tile lies in an orientation."""
    old = turn_tensor(torch.arange(GRID * GRID).view(GRID, GRID), orientation).flatten().tolist()
    cells = {CELLS[before]: CELLS[after] for after, before in enumerate(old)}
    lines = {frozenset(cells_on_line(line)): line for line in LINE_PLACES}
    return cells | {line: lines[frozenset(cells[cell] for cell in cells_on_line(line))]
                    for line in LINE_PLACES}


def turn_scene(scene: Scene, orientation: int) -> Scene:
    """The scene of a tile in another orientation, boxes included."""
    places = _new_places(orientation)
    return Scene(scene.cover, tuple(
        replace(feature, place=places[feature.place], box=turn_box(feature.box, orientation))
        for feature in scene.features))


def turn_box(box: Box | None, orientation: int) -> Box | None:
    """The same box (x1, y1, x2, y2), in per cent, on a tile in another orientation."""
    if box is None:
        return None
    left, top, right, bottom = box
    for _ in range(orientation % 4):    # a quarter turn: right becomes up
        left, top, right, bottom = top, 100 - right, bottom, 100 - left
    if orientation >= 4:
        left, right = 100 - right, 100 - left
    return left, top, right, bottom
