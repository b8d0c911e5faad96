"""Turned tiles: pixels, ground truth and labels orientation together."""

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from vlm_utils.datasets import add_orientations
from vlm_utils.making.vision_pretraining import (
    ABSENT,
    EDGES,
    augment,
    edge_loss,
    pretrain_encoder,
    scene_labels,
    turned_labels,
)
from vlm_utils.tiny_earth import CELLS, Feature, Scene, sample_scene, with_boxes
from vlm_utils.tiny_earth.drawing import feature_mask
from vlm_utils.tiny_earth.turning import turn_image, turn_scene, turn_tensor

ORIENTATIONS = range(8)
scenes = st.integers(0, 10_000).map(lambda seed: sample_scene(np.random.default_rng(seed)))


def test_a_quarter_turn_takes_the_top_left_to_the_bottom_left():
    scene = Scene("forest", (Feature("lake", "top left", 1), Feature("road", "down the right")))
    turned = turn_scene(scene, 1)
    assert {(f.kind, f.place, f.size) for f in turned.features} == {
        ("lake", "bottom left", 1), ("road", "across the top", 2)}


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_picture_and_tensor_turn_alike(orientation):
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    expected = turn_tensor(torch.from_numpy(pixels).permute(2, 0, 1), orientation).permute(1, 2, 0)
    turned = turn_image(Image.fromarray(pixels), orientation)
    assert np.array_equal(np.asarray(turned), expected.numpy())


@given(scenes, st.sampled_from(ORIENTATIONS))
def test_boxes_turn_with_the_picture(scene, orientation):
    """What the turned scene says, the turned mask shows."""
    scene = with_boxes(scene, 5)
    for feature, turned in zip(scene.features, by_kind(turn_scene(scene, orientation), scene),
                               strict=True):
        mask = torch.from_numpy(feature_mask(feature, 5))
        mask = turn_tensor(mask, orientation).numpy()
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        edges = (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
        assert turned.box == tuple(round(100 * int(edge) / 64) for edge in edges)


def by_kind(scene, like):
    """The features of a scene in the order of another, which holds the same kinds."""
    found = {feature.kind: feature for feature in scene.features}
    return [found[feature.kind] for feature in like.features]


def test_a_scene_without_boxes_turns_too():
    scene = Scene("forest", (Feature("lake", "top left"),))
    assert turn_scene(scene, 3).features[0].box is None


def test_labels_say_what_stands_in_each_cell_and_where():
    labels = scene_labels(Scene("forest", (
        Feature("lake", "top left", 2, (12, 25, 38, 50)),
        Feature("road", "down the right", 2, (75, 0, 81, 100)))))
    assert labels.shape == (4, 14) and set(labels[:, 0]) == {0}
    assert labels[:, 2].tolist() == [2, 0, 0, 0]
    assert labels[:, 3].tolist() == [0] * 4
    assert labels[:, 4].tolist() == [0, 2, 0, 2]
    assert labels[0, 6:10].tolist() == [8, 16, 24, 32]          # pixels, from the cell's corner
    assert (labels[1:, 6:12] == ABSENT).all()
    assert labels[:, 12:].tolist() == [[ABSENT] * 2, [16, 20], [ABSENT] * 2, [16, 20]]


def test_labels_of_every_orientation_are_those_of_the_turned_scene():
    scene = with_boxes(Scene("water", (Feature("ship", "top right"),)), 1)
    labels = turned_labels([scene])
    assert labels.shape == (1, 8, 4, 14)
    for orientation in ORIENTATIONS:
        assert np.array_equal(labels[0, orientation].numpy(),
                              scene_labels(turn_scene(scene, orientation)))


def test_an_edge_a_pixel_away_costs_less_than_one_far_away():
    edges = torch.tensor([[10, ABSENT]])
    near, far = (torch.zeros(1, 2, EDGES) for _ in range(2))
    near[0, 0, 11] = far[0, 0, 30] = 9.0
    assert edge_loss(near, edges) < edge_loss(far, edges)
    changed = near.clone()
    changed[0, 1] = torch.randn(EDGES)                          # of an edge that is not there
    assert torch.equal(edge_loss(changed, edges), edge_loss(near, edges))
    assert edge_loss(near, torch.full_like(edges, ABSENT)) == 0     # not NaN


@given(scenes)
def test_four_quarter_turns_change_nothing(scene):
    turned = scene
    for _ in range(4):
        turned = turn_scene(turned, 1)
    assert turned == scene


@given(scenes, st.sampled_from(ORIENTATIONS))
def test_a_marked_cell_is_found_where_the_scene_says(scene, orientation):
    for feature in scene.features:
        if feature.place not in CELLS:
            continue  # a line has no cell of its own
        board = torch.zeros(4)
        board[CELLS.index(feature.place)] = 1
        cell = int(turn_tensor(board.view(2, 2), orientation).flatten().argmax())
        kinds = {f.kind: f.place for f in turn_scene(scene, orientation).features}
        assert kinds[feature.kind] == CELLS[cell]


def test_the_encoder_is_trained_on_every_tile():
    """A trap: an index drawn along the wrong side of the labels sees eight tiles for ever."""
    scenes = [with_boxes(sample_scene(np.random.default_rng(k)), k) for k in range(60)]
    seen = Counter()

    class Tiles:
        def __getitem__(self, rows):
            seen.update(rows)
            return torch.zeros(len(rows), 3, 64, 64)

    pretrain_encoder(Tiles(), scenes, steps=6, batch_size=100)
    assert set(seen) == set(range(60)) and max(seen.values()) < 30


def test_augment_keeps_pixels_and_labels_together():
    """A bright box in a dark tile: its edges move with the pixels, into each orientation."""
    scene = Scene("forest", (Feature("lake", "top left", 2, (12, 25, 38, 50)),))
    tile = torch.full((1, 3, 64, 64), -100.0)
    tile[..., 16:32, 8:24] = 100.0
    seen = set()
    for seed in range(40):
        pixels, labels = augment(tile, turned_labels([scene]), np.random.default_rng(seed))
        bright = (pixels[0].mean(0) > 0).numpy()
        rows, columns = np.flatnonzero(bright.any(axis=1)), np.flatnonzero(bright.any(axis=0))
        cell = int(labels[0, :, 1].argmax())
        row, column = divmod(cell, 2)
        edges = np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])
        corner = 32 * np.array([column, row, column, row])
        assert labels[0, cell, 6:10].tolist() == np.clip(edges - corner, 0, 32).tolist()
        seen.add((cell, *edges.tolist()))
    assert len(seen) > 12


def test_add_orientations_keeps_sites_together_and_the_first_rows_as_they_were(earth_table):
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
