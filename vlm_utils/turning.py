"""Turned tiles: a view from above has no up or down, so every tile is true in 8 orientations."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import torch
from PIL import Image
from torch import Tensor

from vlm_utils.tiny_earth import LINE_PLACES, PLACES, Scene


def turn_tensor(image: Tensor, turn: int) -> Tensor:
    """(..., side, side) in one of its eight orientations: 4 quarter turns, then mirrored."""
    image = torch.rot90(image, turn % 4, (-2, -1))
    return image.flip(-1) if turn >= 4 else image


def turn_image(picture: Image.Image, turn: int) -> Image.Image:
    """A PIL image in the same orientation as turn_tensor's."""
    picture = picture.rotate(90 * (turn % 4), expand=True)
    return picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if turn >= 4 else picture


@cache
def label_order(turn: int) -> list[int]:
    """Where each label of a turned tile stood before: new_labels = labels[label_order(turn)].

    25 labels: the cover, 9 kinds and 9 sizes by cell, 6 lines (`vision_pretraining.scene_labels`).
    """
    cells = turn_tensor(torch.arange(9).view(3, 3), turn).flatten().tolist()
    masks = torch.zeros(6, 3, 3, dtype=torch.long)
    for i in range(3):
        masks[i, i, :] = masks[3 + i, :, i] = 1
    lines = [next(old for old in range(6) if turn_tensor(masks[old], turn).equal(masks[new]))
             for new in range(6)]
    return [0] + [1 + c for c in cells] + [10 + c for c in cells] + [19 + i for i in lines]


@cache
def _new_places(turn: int) -> dict[str, str]:
    order = label_order(turn)
    cells = {PLACES[old - 1]: PLACES[new] for new, old in enumerate(order[1:10])}
    return cells | {LINE_PLACES[old - 19]: LINE_PLACES[new] for new, old in enumerate(order[19:])}


def turn_scene(scene: Scene, turn: int) -> Scene:
    """The scene of a turned tile."""
    places = _new_places(turn)
    return Scene(scene.cover, tuple(
        replace(feature, place=places[feature.place]) for feature in scene.features))
