"""Turned tiles: pixels, ground truth and labels turn together."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from vlm_utils.datasets import add_orientations
from vlm_utils.making.vision_pretraining import augment, scene_labels, turn_labels
from vlm_utils.tiny_earth import (
    CELLS,
    Feature,
    Scene,
    sample_scene,
)
from vlm_utils.tiny_earth.turning import turn_image, turn_scene, turn_tensor

ORIENTATIONS = range(8)
scenes = st.integers(0, 10_000).map(lambda seed: sample_scene(np.random.default_rng(seed)))


def test_a_quarter_turn_takes_the_top_left_to_the_bottom_left():
    scene = Scene("forest", (Feature("lake", "top left", 1), Feature("road", "down the right")))
    turned = turn_scene(scene, 1)
    assert {(f.kind, f.place, f.size) for f in turned.features} == {
        ("lake", "bottom left", 1), ("road", "across the top", 2)}


@pytest.mark.parametrize("turn", ORIENTATIONS)
def test_picture_and_tensor_turn_alike(turn):
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    expected = turn_tensor(torch.from_numpy(pixels).permute(2, 0, 1), turn).permute(1, 2, 0)
    assert np.array_equal(np.asarray(turn_image(Image.fromarray(pixels), turn)), expected.numpy())


@given(scenes, st.sampled_from(ORIENTATIONS))
def test_labels_turn_with_the_scene(scene, turn):
    labels = torch.from_numpy(scene_labels(scene))
    expected = scene_labels(turn_scene(scene, turn))
    assert np.array_equal(turn_labels(labels[None], turn)[0].numpy(), expected)


def test_labels_say_what_stands_in_each_cell():
    labels = scene_labels(Scene("forest", (Feature("lake", "top left", 2),
                                           Feature("road", "down the right"))))
    assert labels.shape == (4, 6) and set(labels[:, 0]) == {0}
    assert labels[:, 2].tolist() == [2, 0, 0, 0]
    assert labels[:, 3].tolist() == [0] * 4
    assert labels[:, 4].tolist() == [0, 2, 0, 2]


@given(scenes)
def test_four_quarter_turns_change_nothing(scene):
    turned = scene
    for _ in range(4):
        turned = turn_scene(turned, 1)
    assert turned == scene


@given(scenes, st.sampled_from(ORIENTATIONS))
def test_a_marked_cell_is_found_where_the_scene_says(scene, turn):
    for feature in scene.features:
        if feature.place not in CELLS:
            continue  # a line has no cell of its own
        board = torch.zeros(4)
        board[CELLS.index(feature.place)] = 1
        cell = int(turn_tensor(board.view(2, 2), turn).flatten().argmax())
        kinds = {f.kind: f.place for f in turn_scene(scene, turn).features}
        assert kinds[feature.kind] == CELLS[cell]


def test_augment_keeps_pixels_and_labels_together():
    tile = torch.zeros(1, 3, 64, 64)
    tile[..., :32, :32] = 100                       # the top left cell is bright
    scene = Scene("forest", (Feature("lake", "top left", 2),))
    labels = torch.from_numpy(scene_labels(scene))[None]
    for seed in range(20):
        pixels, turned = augment(tile, labels, np.random.default_rng(seed))
        cells = pixels[0].mean(0).reshape(2, 32, 2, 32).mean((1, 3)).flatten()
        assert turned[0, :, 1].argmax() == cells.argmax()


def test_add_turns_keeps_places_together_and_the_first_rows_as_they_were(earth_table):
    table = earth_table
    turned = add_orientations(table, 4)
    count = len(table)
    assert len(turned) == 4 * count and len(turned.truth.scenes) == 4 * count
    assert turned.truth.scenes[:count] == list(table.truth.scenes)
    assert np.array_equal(np.asarray(turned.image(1)), np.asarray(table.image(1)))
    assert np.array_equal(np.asarray(turned.image(1 + count)),
                          np.asarray(turn_image(table.image(1), 1)))
    for rows in turned.truth.sites:
        assert len({row // count for row in rows}) == 1
