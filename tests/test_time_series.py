"""Lesson 07's room: budgets of tokens, and where neighbouring frames differ."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from vlm_utils.loading import load_base_model
from vlm_utils.plots import draw_changes
from vlm_utils.profiles import get_profile
from vlm_utils.time_series import budget_frames, change_map, cut_windows, join_windows


@given(st.integers(1, 5000), st.integers(1, 300))
def test_a_budget_holds_whole_frames_and_no_other_fits(tokens, each):
    if tokens < each:
        with pytest.raises(ValueError, match=f"{tokens} tokens holds no frame of {each}"):
            budget_frames(tokens, each)
        return
    frames = budget_frames(tokens, each)
    assert frames * each <= tokens < (frames + 1) * each


def test_a_frame_costs_something():
    with pytest.raises(ValueError, match="at least 1 token, not 0"):
        budget_frames(100, 0)


def test_a_change_is_found_where_it_is():
    features = np.random.default_rng(0).normal(size=(3, 4, 5, 8))
    features[1] = features[0]
    features[2] = features[0]
    features[2, 3, 1] *= -1
    changed = change_map(features)
    assert changed.shape == (2, 4, 5)
    assert np.allclose(changed[0], 0, atol=1e-6)
    assert changed[1, 3, 1] == pytest.approx(2) and changed[1].sum() == pytest.approx(2, abs=1e-4)


def test_the_length_of_a_feature_is_no_change():
    """A trap: the difference itself is large where only the contrast is."""
    features = np.random.default_rng(0).normal(size=(1, 16, 8))
    assert np.allclose(change_map(np.concatenate([features, 3 * features])), 0, atol=1e-6)


def test_patches_of_a_square_are_in_row_order():
    features = torch.ones(2, 16, 8)
    features[1, 6] = -1                                     # row 1, column 2
    assert np.argwhere(change_map(features) > 1).tolist() == [[0, 1, 2]]


def test_features_of_nothing_are_no_change():
    assert np.isfinite(change_map(np.zeros((2, 4, 8)))).all()


@pytest.mark.parametrize("shape", [(1, 4, 4, 8), (2, 15, 8), (2, 8)])
def test_what_is_no_series_of_frames_is_refused(shape):
    with pytest.raises(ValueError, match="features|square"):
        change_map(np.zeros(shape))


def test_windows_are_joined_where_they_were_cut():
    pixels = np.arange(16, dtype=np.uint8).reshape(4, 4).repeat(8, 0).repeat(8, 1) * 10
    windows = cut_windows(Image.fromarray(pixels), 2, 16)
    assert [window.size for window in windows] == [(16, 16)] * 4
    # An encoder with 2 x 2 patches that tells the middle of each.
    encoded = np.array([[np.asarray(window)[y, x, :1] for y in (4, 12) for x in (4, 12)]
                        for window in windows])             # (4, patches, 1)
    joined = join_windows(encoded, 2)
    assert joined.shape == (1, 4, 4, 1)
    assert (joined[0, :, :, 0] / 10).round().tolist() == np.arange(16).reshape(4, 4).tolist()


def test_the_figure_has_a_map_under_each_frame_but_the_first():
    frames = [Image.new("RGB", (20, 10), (k, k, k)) for k in range(8)]
    maps = np.random.default_rng(0).random((7, 4, 4))
    figure = draw_changes(frames, maps, [f"2019-0{k + 1}" for k in range(8)])
    layers = [len(axis.images) for axis in figure.axes[:-1]]
    assert sorted(layers) == [0] * 1 + [1] * 8 + [2] * 7    # an empty place, frames, maps
    assert {axis.get_title() for axis in figure.axes} >= {"2019-01", "2019-08"}
    with pytest.raises(ValueError, match="8 frames have 7 neighbours, and there are 6 maps"):
        draw_changes(frames, maps[:6])


def test_real_frames_change_where_a_person_sees_it(real_images):
    """Istanbul's airport: from frame 14 to 15 taxiways appear along the left edge, and from 15 to
    16 hardly anything. Seen by eye on the drawn maps."""
    model, processor = load_base_model(get_profile("tiny"))
    frames = [Image.open(real_images / "airport" / f"frame_{k:02d}.png") for k in (13, 14, 15)]
    windows = [window for frame in frames for window in cut_windows(frame, 4, 64)]
    with torch.inference_mode():
        features = model.encode_images(processor.pixel_values(windows))
    built, quiet = change_map(join_windows(features, 4))    # each (16, 16)
    assert built.mean() > 2 * quiet.mean()
    assert built[:, :2].mean() > 1.3 * built[:, 2:].mean()
