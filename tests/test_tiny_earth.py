"""The embedded world: what is drawn, what is said about it, and what is stored."""

import json
import re
import socket
from collections import defaultdict
from difflib import SequenceMatcher
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlm_utils import tiny_earth
from vlm_utils.profiles import data_folder
from vlm_utils.tiny_earth import Conditions, Feature, Scene
from vlm_utils.tiny_earth.build import _row_seeds
from vlm_utils.tiny_earth.drawing import cloud_mask, feature_mask
from vlm_utils.tiny_earth.weather import sample_conditions

SPLITS = ("train", "validation", "test")
seeds = st.integers(0, 2 ** 32)
scenes = seeds.map(lambda seed: tiny_earth.sample_scene(np.random.default_rng(seed)))


@st.composite
def sequences(draw, event=None):
    num_frames = draw(st.integers(3, tiny_earth.MAX_FRAMES))
    return tiny_earth.sample_sequence(np.random.default_rng(draw(seeds)), num_frames, event)


@pytest.fixture(scope="module")
def tables():
    return {"scenes": {split: tiny_earth.load_scenes(split) for split in SPLITS},
            "sequences": {split: tiny_earth.load_sequences(split) for split in SPLITS}}


def without_images(table):
    return table.remove_columns([c for c in ("image", "frames") if c in table.column_names])


def distance(picture, pixels):
    """Root of the mean squared difference of two images, in grey levels."""
    assert picture.size == (64, 64) and picture.mode == "RGB"
    return np.sqrt(np.mean((np.asarray(picture, dtype=float) - pixels) ** 2))


# ---------------------------------------------------------------- scenes

@given(scenes)
def test_a_sampled_scene_obeys_the_rules_of_its_world(scene):
    kinds = [feature.kind for feature in scene.features]
    assert set(kinds) <= set(tiny_earth.allowed_kinds(scene.cover)) <= set(tiny_earth.KINDS)
    assert len(set(kinds)) == len(kinds)
    lines = [f for f in scene.features if f.place in tiny_earth.LINE_PLACES]
    points = [f.place for f in scene.features if f.place in tiny_earth.CELLS]
    assert len(lines) <= (scene.cover != "water") and len(points) <= 3
    assert len(set(points)) == len(points) == len(scene.features) - len(lines)
    taken = 2 * len(lines) + len(points)  # a line passes two cells, none of them taken
    assert len(tiny_earth.free_cells(scene.features)) == 4 - taken
    assert not set(tiny_earth.free_cells(scene.features)) & set(points)


@given(scenes)
def test_a_scene_survives_json(scene):
    boxed = tiny_earth.with_boxes(scene, 3)
    for written in (scene, boxed):
        again = Scene.from_json(written.to_json())
        assert again == written == scene
        assert [f.box for f in again.features] == [f.box for f in written.features]


@pytest.mark.parametrize("box", [[1, 2, 3], [1, 2, 1, 4], [1, 5, 3, 4], [0, 0, 101, 4],
                                 [0, 0, 2.5, 4], [0, 0, True, 4], "box"])
def test_a_bad_box_is_refused_with_the_reason(box):
    record = {"cover": "forest", "features": [
        {"kind": "lake", "place": "top left", "size": 1, "box": box}]}
    with pytest.raises(ValueError, match="whole numbers from 0 to 100, not"):
        Scene.from_json(json.dumps(record))


def test_a_box_is_no_part_of_the_truth_that_is_compared():
    """Else two frames of one site, turned or not, would seem to differ."""
    one, other = Feature("lake", "top left", 1, (1, 2, 3, 4)), Feature("lake", "top left", 1)
    assert one == other and hash(one) == hash(other)
    assert tiny_earth.describe_change(Scene("forest", (one,)), Scene("forest", (other,))) == \
        "Nothing changed."


def test_the_order_of_features_does_not_matter():
    lake, town = Feature("lake", "top left", 1), Feature("town", "bottom right", 2)
    assert Scene("forest", (town, lake)) == Scene("forest", (lake, town))


@pytest.mark.parametrize("text, complaint", [
    ("{", "not JSON"),
    ("[]", "not a record"),
    ('{"cover": "forest"}', "not a record"),
    ('{"cover": "forest", "features": "lake"}', "not a list"),
    ('{"cover": "lava", "features": []}', "unknown cover 'lava'"),
    ('{"cover": ["forest"], "features": []}', "unknown cover"),
    ('{"cover": "forest", "features": [{"kind": "lake"}]}', "a feature is not a record"),
])
def test_bad_json_is_refused_with_the_reason(text, complaint):
    with pytest.raises(ValueError, match=complaint):
        Scene.from_json(text)


@pytest.mark.parametrize("cover, features, complaint", [
    ("desert", [("fire", "top left", 1)], "no 'fire' on desert"),
    ("water", [("road", "across the top", 2)], "no 'road' on water"),
    ("forest", [("lake", "across the top", 2)], "no lake at 'across the top'"),
    ("forest", [("road", "top left", 2)], "no road at 'top left'"),
    ("forest", [("lake", "top left", 3)], "no lake of size 3"),
    ("forest", [("lake", "top left", True)], "no lake of size True"),
    ("snow", [("airport", "top left", 1)], "no airport of size 1"),
    ("forest", [("lake", "top left", 1), ("lake", "bottom left", 1)],
     "two features claim the lake"),
    ("forest", [("lake", "top left", 1), ("town", "top left", 1)],
     "two features claim the top left"),
    ("forest", [("road", "down the left", 2), ("town", "top left", 1)], "claim the top left"),
    ("forest", [("road", "down the left", 2), ("river", "down the right", 2)], "claim the line"),
])
def test_an_impossible_scene_is_refused_with_the_reason(cover, features, complaint):
    record = {"cover": cover, "features": [
        {"kind": kind, "place": place, "size": size} for kind, place, size in features]}
    with pytest.raises(ValueError, match=complaint):
        Scene.from_json(json.dumps(record))


# ---------------------------------------------------------------- drawing

@settings(max_examples=25, deadline=None)
@given(scenes, seeds, seeds)
def test_rendering_is_deterministic(scene, site_seed, light_seed):
    tile = tiny_earth.render(scene, site_seed, light_seed)
    assert tile.shape == (64, 64, 3) and tile.dtype == np.uint8
    assert np.array_equal(tile, tiny_earth.render(scene, site_seed, light_seed))
    assert not np.array_equal(tile, tiny_earth.render(scene, site_seed, light_seed + 1))
    assert not np.array_equal(tile, tiny_earth.render(scene, site_seed + 1, light_seed))


@pytest.mark.parametrize("kind", tiny_earth.KINDS)
def test_light_leaves_the_ground_as_it_was(kind):
    cover = next(c for c in tiny_earth.COVERS if kind in tiny_earth.allowed_kinds(c))
    place = "across the top" if kind in ("river", "road") else "top left"
    scene = Scene(cover, (Feature(kind, place),))
    tiles = [tiny_earth.render(scene, 5, light).astype(float) for light in range(4)]
    other = tiny_earth.render(Scene(cover), 6, 0).astype(float)
    for first, second in combinations(tiles, 2):
        same = np.corrcoef(first.ravel(), second.ravel())[0, 1]
        different = np.corrcoef(first.ravel(), other.ravel())[0, 1]
        assert same > 0.85 and same > different


@pytest.mark.parametrize("cover", tiny_earth.COVERS)
def test_a_feature_changes_its_own_cell_and_little_else(cover):
    bare = tiny_earth.render(Scene(cover), 3, 3).astype(float)
    for kind in tiny_earth.allowed_kinds(cover):
        if kind in ("river", "road"):
            continue
        for place, area in (("top left", np.s_[:32, :32]), ("bottom right", np.s_[32:, 32:])):
            scene = Scene(cover, (Feature(kind, place),))
            change = np.abs(tiny_earth.render(scene, 3, 3) - bare).max(axis=-1)
            assert (change[area] > 30).sum() >= 25, f"{kind} on {cover} is hard to see"
            assert change[area].sum() > 0.85 * change.sum(), f"{kind} on {cover} leaves its cell"


@pytest.mark.parametrize("kind", tiny_earth.SIZED_KINDS)
def test_a_larger_feature_covers_more(kind):
    cover = next(c for c in tiny_earth.COVERS if kind in tiny_earth.allowed_kinds(c))
    bare = tiny_earth.render(Scene(cover), 8, 8).astype(float)
    covered = []
    for size in (1, 2):
        tile = tiny_earth.render(Scene(cover, (Feature(kind, "top right", size),)), 8, 8)
        covered.append(np.abs(tile - bare).max(axis=-1) > 12)
    small, large = (mask.sum() for mask in covered)
    assert 1.8 * small < large           # smoke and shallow water are painted too: they grow less
    itself = [feature_mask(Feature(kind, "top right", size), 8).sum() for size in (1, 2)]
    assert 2.2 * itself[0] < itself[1]
    assert (covered[0] & covered[1]).sum() > 0.9 * small  # it grew where it stood


# ---------------------------------------------------------------- boxes

def overlap(box, other):
    """Intersection over union of two boxes."""
    width = min(box[2], other[2]) - max(box[0], other[0])
    height = min(box[3], other[3]) - max(box[1], other[1])
    shared = max(width, 0) * max(height, 0)
    areas = sum((b[2] - b[0]) * (b[3] - b[1]) for b in (box, other))
    return shared / (areas - shared)


def repainted_box(feature, cover, site_seed):
    """Where a tile with a feature differs from one without, in per cent: read from pixels."""
    bare = tiny_earth.render(Scene(cover), site_seed, 0).astype(float)
    tile = tiny_earth.render(Scene(cover, (feature,)), site_seed, 0).astype(float)
    changed = np.abs(tile - bare).max(axis=-1) > 20  # more than the grain of two photographs
    rows, columns = np.flatnonzero(changed.any(axis=1)), np.flatnonzero(changed.any(axis=0))
    return tuple(100 * edge / 64 for edge in (
        columns[0], rows[0], columns[-1] + 1, rows[-1] + 1))


@pytest.mark.parametrize("kind, cover", [
    ("lake", "desert"), ("town", "forest"), ("quarry", "forest"), ("clearing", "forest"),
    ("airport", "desert"), ("solar farm", "desert"), ("road", "forest"), ("river", "desert")])
def test_a_box_is_what_the_repainted_tile_shows(kind, cover):
    """Within a pixel (1.6%): soft edges of less than half are not part of a box."""
    places = tiny_earth.LINE_PLACES if kind in tiny_earth.LINE_KINDS else tiny_earth.CELLS
    for site_seed in range(6):
        feature = Feature(kind, places[site_seed % 4])
        box = tiny_earth.box_of(feature, site_seed)
        assert np.abs(np.subtract(box, repainted_box(feature, cover, site_seed))).max() <= 3.2


@pytest.mark.parametrize("kind, cover", [("fire", "desert"), ("ship", "water"),
                                         ("island", "water")])
def test_a_box_leaves_out_smoke_wake_and_shallow_water(kind, cover):
    """Around the thing more is painted than the box holds."""
    cover = "grassland" if kind == "fire" else cover
    larger = 0
    for site_seed in range(8):
        feature = Feature(kind, "top left")
        box = tiny_earth.box_of(feature, site_seed)
        painted = repainted_box(feature, cover, site_seed)
        assert painted[0] <= box[0] + 1.6 and painted[3] >= box[3] - 1.6
        larger += (painted[2] - painted[0]) * (painted[3] - painted[1]) > \
            1.1 * (box[2] - box[0]) * (box[3] - box[1])
    assert larger >= 6


@settings(max_examples=100)
@given(scenes, seeds)
def test_every_point_feature_stays_in_its_cell(scene, site_seed):
    for feature in tiny_earth.with_boxes(scene, site_seed).features:
        left, top, right, bottom = feature.box
        if feature.place in tiny_earth.CELLS:
            row, column = divmod(tiny_earth.CELLS.index(feature.place), 2)
            assert 50 * column <= left < right <= 50 * column + 50
            assert 50 * row <= top < bottom <= 50 * row + 50
        else:
            assert (left, right) == (0, 100) or (top, bottom) == (0, 100)


@given(st.sampled_from(tiny_earth.SIZED_KINDS), st.sampled_from(tiny_earth.CELLS), seeds)
def test_what_grows_keeps_its_centre(kind, place, site_seed):
    small, large = (tiny_earth.box_of(Feature(kind, place, size), site_seed) for size in (1, 2))
    centres = [np.add(box[:2], box[2:]) / 2 for box in (small, large)]
    assert np.abs(centres[0] - centres[1]).max() <= 5  # per cent; outlines are not symmetric
    # Of 3,000 sites, 2.1 times for all but fires, whose outlines are the roughest: 1.76.
    assert (large[2] - large[0]) * (large[3] - large[1]) > \
        1.6 * (small[2] - small[0]) * (small[3] - small[1])


def test_a_guess_from_place_kind_and_size_finds_no_box(tables):
    """A trap: where things hardly move in their cell, the median box scores 0.74 unseen."""
    known = defaultdict(list)
    for text in tables["scenes"]["train"]["scene"]:
        for f in Scene.from_json(text).features:
            known[f.kind, f.place, f.size].append(f.box)
    median = {thing: np.median(boxes, axis=0) for thing, boxes in known.items()}
    guessed = [overlap(median[f.kind, f.place, f.size], f.box)
               for text in tables["scenes"]["test"]["scene"]
               for f in Scene.from_json(text).features]
    assert len(guessed) > 800 and 0.3 < np.mean(guessed) <= 0.5


@pytest.mark.parametrize("split", SPLITS)
def test_stored_boxes_are_what_the_painter_paints(tables, split):
    table = tables["scenes"][split]
    for index in np.linspace(0, len(table) - 1, 40).astype(int).tolist():
        scene = Scene.from_json(table[index]["scene"])
        painted = tiny_earth.with_boxes(scene, site_seed_of("scenes", split, index))
        assert [f.box for f in scene.features] == [f.box for f in painted.features]


@pytest.mark.parametrize("split", SPLITS)
def test_what_stands_still_keeps_its_box_in_every_frame(tables, split):
    compared = 0
    for texts in tables["sequences"][split]["scenes"]:
        boxes = {}
        for text in texts:
            for f in Scene.from_json(text).features:
                assert f.box is not None
                compared += (f.kind, f.place, f.size) in boxes
                assert boxes.setdefault((f.kind, f.place, f.size), f.box) == f.box
    assert compared > 500


# ---------------------------------------------------------------- clouds, seasons, repeats

def site_seed_of(table, split, index):
    return _row_seeds(table, split, index)[2]


@pytest.mark.parametrize("split", SPLITS)
def test_a_part_of_the_sequences_has_clouds_seasons_or_a_repeat(tables, split):
    found = defaultdict(int)
    table = without_images(tables["sequences"][split])
    for texts in table["conditions"]:
        frames = [Conditions.from_json(text) for text in texts]
        found["cloud"] += any(frame.cloud for frame in frames)
        found["season"] += len({frame.season for frame in frames}) > 1
        found["repeat"] += any(frame.repeats for frame in frames)
    shares = {kind: count / len(table) for kind, count in found.items()}
    assert 0.12 < sum(shares.values()) < 0.28, shares
    assert min(shares.values()) > 0.02, shares


@pytest.mark.parametrize("split", ["validation", "test"])
def test_a_cloud_leaves_the_truth_in_sight(tables, split):
    """Never the whole cell of what changes. The masks themselves come in the next test."""
    clouds = hidden_a_little = 0
    for row in without_images(tables["sequences"][split]):
        frames = [Scene.from_json(text) for text in row["scenes"]]
        shown = [set(frame.features) for frame in frames]
        changing = {f.box for f in set.union(*shown) - set.intersection(*shown)}
        for text, frame in zip(row["conditions"], frames, strict=True):
            cloud = Conditions.from_json(text).cloud
            if cloud is None:
                continue
            clouds += 1
            hidden_a_little += any(covered(f.box, cloud) > 0 for f in frame.features)
            for feature in frame.features:
                if feature.box in changing and feature.place in tiny_earth.CELLS:
                    row_, column = divmod(tiny_earth.CELLS.index(feature.place), 2)
                    cell = (50 * column, 50 * row_, 50 * column + 50, 50 * row_ + 50)
                    assert covered(cell, cloud) < 1
    assert clouds > 15 and hidden_a_little > 3


def covered(box, cloud):
    """The share of a box that lies in another."""
    width = max(min(box[2], cloud[2]) - max(box[0], cloud[0]), 0)
    height = max(min(box[3], cloud[3]) - max(box[1], cloud[1]), 0)
    return width * height / ((box[2] - box[0]) * (box[3] - box[1]))


def test_by_the_painted_masks_no_cloud_lies_on_what_changes_and_little_of_the_rest_is_hidden():
    seen = partly = 0
    for seed in range(150):
        rng = np.random.default_rng(seed)
        frames = tiny_earth.sample_sequence(rng, 6, "grow" if seed % 2 else "appear")
        lights, days = list(range(6)), [f"2019-0{k}-01" for k in range(1, 7)]
        taken = sample_conditions(rng, frames, days, seed, lights)
        changing = set.union(*[set(f.features) for f in frames]) - set.intersection(
            *[set(f.features) for f in frames])
        for light, conditions in zip(lights, taken, strict=True):
            if conditions.cloud:
                seen += 1
                hidden = cloud_mask(conditions.cloud, light)
                assert hidden.max() > 0.9
                for feature in changing:
                    assert hidden[feature_mask(feature, seed)].max() < 0.05
                for feature in set.intersection(*[set(f.features) for f in frames]):
                    share = (hidden[feature_mask(feature, seed)] > 0.3).mean()
                    assert share <= 0.35
                    partly += share > 0
    assert seen > 5 and partly > 2


def test_a_cloud_hides_what_lies_under_it_and_nothing_else():
    scene, cloud = Scene("forest", (Feature("town", "top left"),)), (0, 0, 60, 60)
    clear = tiny_earth.render(scene, 1, 2).astype(float)
    cloudy = tiny_earth.render(scene, 1, 2, cloud=cloud).astype(float)
    change = np.abs(cloudy - clear).max(axis=-1)
    assert change[10:28, 10:28].mean() > 60
    assert change[40:, :].max() == change[:, 40:].max() == 0


@pytest.mark.parametrize("season", tiny_earth.SEASONS)
def test_a_season_colours_vegetation_and_nothing_else(season):
    for cover in tiny_earth.COVERS:
        summer = tiny_earth.render(Scene(cover), 4, 4).astype(float)
        other = tiny_earth.render(Scene(cover), 4, 4, season).astype(float)
        if cover not in ("forest", "cropland", "grassland"):
            assert np.array_equal(summer, other)
            continue
        assert np.abs(summer - other).max() > 6
        greys = [tile.mean(axis=-1).ravel() for tile in (summer, other)]
        assert np.corrcoef(greys)[0, 1] > 0.8  # the same ground: bright stays bright


def test_seasons_follow_the_date():
    assert [tiny_earth.season_of(f"2019-{month:02d}-15") for month in (1, 4, 7, 10, 12)] == [
        "winter", "spring", "summer", "autumn", "winter"]


def test_a_repeated_frame_is_the_picture_before_it(tables):
    repeated = 0
    for row in tables["sequences"]["validation"]:
        for k, text in enumerate(row["conditions"]):
            same = k > 0 and np.array_equal(row["frames"][k], row["frames"][k - 1])
            assert Conditions.from_json(text).repeats == same
            repeated += same
    assert repeated > 3


# ---------------------------------------------------------------- text

@settings(max_examples=300)
@given(scenes)
def test_every_wording_states_every_fact(scene):
    wordings = tiny_earth.captions(scene)
    for one, other in combinations(wordings, 2):
        assert SequenceMatcher(None, one.split(), other.split()).ratio() < 0.9, (one, other)
    for wording in wordings:
        assert tiny_earth.facts(wording) == tiny_earth.scene_facts(scene), wording
    assert wordings == tiny_earth.captions(scene)


@given(scenes)
def test_a_wording_reads_on_after_a_colon(scene):
    for wording in tiny_earth.captions(scene):
        assert wording[0].isupper() and wording.endswith(".")
        assert not set(wording[:-1]) & set(".:;"), wording
        assert not re.search(r"\b(this|that|is|are|shows|can)\b", wording, re.IGNORECASE), wording
        assert not re.search(r"\ba [aeiou]|\ban [^aeiou]", wording, re.IGNORECASE), wording


def test_facts_of_what_a_model_may_write():
    assert tiny_earth.facts("") == frozenset()
    assert tiny_earth.facts("Lake lake the the a") == frozenset()
    assert tiny_earth.facts("A DESERT, with an airport in the top-left") == {
        ("cover", "desert"), ("feature", "airport", "top left")}
    assert tiny_earth.facts("a lake and a town in the top right") == {
        ("feature", "town", "top right")}


def test_phrases():
    phrases = {("lake", "top left"): "a lake in the top left",
               ("airport", "bottom right"): "an airport in the bottom right",
               ("river", "across the top"): "a river across the top",
               ("road", "down the left"): "a road down the left"}
    for (kind, place), text in phrases.items():
        assert tiny_earth.phrase(Feature(kind, place)) == text


LAKE, LARGE, FIRE = (Feature("lake", "top left", 1), Feature("lake", "top left", 2),
                     Feature("fire", "bottom left"))
FOREST, WITH_LAKE = Scene("forest"), Scene("forest", (LAKE,))


@pytest.mark.parametrize("before, after, change, backwards", [
    (FOREST, FOREST, "Nothing changed.", "Nothing changed."),
    (FOREST, WITH_LAKE, "A lake appeared in the top left.",
     "The lake in the top left disappeared."),
    (WITH_LAKE, Scene("forest", (LARGE,)), "The lake in the top left grew.",
     "The lake in the top left shrank."),
    (FOREST, Scene("cropland"), "The forest became cropland.", "The cropland became a forest."),
    (Scene("mountain"), Scene("snow"), "The mountain range became a snow field.",
     "The snow field became a mountain range."),
    (Scene("forest", (FIRE,)), Scene("forest", (Feature("fire", "top right"),)),
     "The fire moved from the bottom left to the top right.",
     "The fire moved from the top right to the bottom left."),
    (FOREST, Scene("forest", (Feature("road", "across the top"),)),
     "A road appeared across the top.", "The road across the top disappeared."),
])
def test_change_wordings(before, after, change, backwards):
    assert tiny_earth.describe_change(before, after) == change
    assert tiny_earth.describe_change(after, before) == backwards


@pytest.mark.parametrize("frames, text", [
    ([FOREST], "Nothing changes."),
    ([FOREST, FOREST, WITH_LAKE], "A lake appears in the top left in <image_3>."),
    ([WITH_LAKE, FOREST], "The lake in the top left disappears in <image_2>."),
    ([FOREST, WITH_LAKE, WITH_LAKE, FOREST],
     "A lake appears in the top left in <image_2> and disappears in <image_4>."),
    ([WITH_LAKE, FOREST, FOREST, WITH_LAKE],
     "The lake in the top left disappears in <image_2> and reappears in <image_4>."),
    ([FOREST, FOREST, Scene("cropland")], "The forest becomes cropland in <image_3>."),
    ([WITH_LAKE, WITH_LAKE, Scene("forest", (LARGE,))], "The lake in the top left grows."),
    ([Scene("forest", (Feature("fire", place),))
      for place in ("top left", "bottom left", "bottom right")],
     "The fire moves from the top left to the bottom right."),
])
def test_sequence_wordings(frames, text):
    assert tiny_earth.describe_sequence(frames) == text


@pytest.mark.parametrize("frames, complaint", [
    ([], "at least one"),
    ([FOREST, Scene("cropland", (LAKE,))], "more than one thing changed: The forest became"),
    ([WITH_LAKE, Scene("forest", (LARGE,)), WITH_LAKE], "no wording for a lake"),
    ([FOREST, WITH_LAKE, FOREST, WITH_LAKE], "no wording for a lake"),
    ([FOREST, Scene("cropland"), FOREST], "forest -> cropland -> forest"),
])
def test_what_has_no_wording_is_refused(frames, complaint):
    with pytest.raises(ValueError, match=complaint.replace("became", "becomes")):
        tiny_earth.describe_sequence(frames)
    if len(frames) == 2:
        with pytest.raises(ValueError, match=complaint):
            tiny_earth.describe_change(*frames)


# ---------------------------------------------------------------- sequences

OPPOSITES = {"grows": "shrinks", "appears": "disappears", "grew": "shrank",
             "appeared": "disappeared", "became": "became", "becomes": "becomes"}
OPPOSITES |= {value: key for key, value in OPPOSITES.items()}


def verbs(text):
    return [word.strip(".") for word in text.split() if word.strip(".") in OPPOSITES]


@given(st.sampled_from(["grow", "shrink", "appear", "disappear", "cover change"]), st.data())
def test_a_reversed_sequence_tells_the_opposite(event, data):
    frames = data.draw(sequences(event))
    forward = verbs(tiny_earth.describe_sequence(frames))
    backward = verbs(tiny_earth.describe_sequence(frames[::-1]))
    assert len(forward) == 1 and backward == [OPPOSITES[forward[0]]]
    forward = verbs(tiny_earth.describe_change(frames[0], frames[-1]))
    backward = verbs(tiny_earth.describe_change(frames[-1], frames[0]))
    assert len(forward) == 1 and backward == [OPPOSITES[forward[0]]]


@settings(max_examples=200)
@given(sequences(), st.data())
def test_any_frames_in_order_have_a_wording(frames, data):
    kept = data.draw(st.lists(st.sampled_from(range(len(frames))), min_size=1, unique=True))
    some = [frames[index] for index in sorted(kept)]
    for part in (some, some[::-1]):
        text = tiny_earth.describe_sequence(part)
        assert (text == "Nothing changes.") == (len(set(part)) == 1)
        for number in range(len(part) + 1, tiny_earth.MAX_FRAMES + 2):
            assert f"<image_{number}>" not in text
    for before, after in combinations(some, 2):
        assert tiny_earth.describe_change(before, after)


@given(sequences())
def test_some_frames_differ_in_nothing_but_light(frames):
    assert len(set(frames)) < len(frames)


@given(st.data())
def test_a_move_never_returns(data):
    frames = data.draw(sequences("move"))
    assert " moves from " in tiny_earth.describe_sequence(frames)
    states = [frame for k, frame in enumerate(frames) if k == 0 or frame != frames[k - 1]]
    assert len(set(states)) == len(states) >= 2


def test_impossible_sequences_are_refused():
    rng = np.random.default_rng(0)
    for num_frames in (1, 17):
        with pytest.raises(ValueError, match=f"not {num_frames}"):
            tiny_earth.sample_sequence(rng, num_frames)
    for num_frames, event in ((2, "come and go"), (4, "explode")):
        with pytest.raises(ValueError, match=event):
            tiny_earth.sample_sequence(rng, num_frames, event)


# ---------------------------------------------------------------- stored tables

@pytest.mark.parametrize("split", SPLITS)
def test_stored_scenes_can_be_made_again(tables, split):
    stored = tables["scenes"][split]
    for index in np.linspace(0, len(stored) - 1, 12).astype(int).tolist():
        row, made = stored[index], tiny_earth.scene_row(split, index)
        assert np.array_equal(made["image"], tiny_earth.scene_row(split, index)["image"])
        assert distance(row.pop("image"), made.pop("image")) < 14
        assert row == made


@pytest.mark.parametrize("split", SPLITS)
def test_stored_sequences_can_be_made_again(tables, split):
    stored = tables["sequences"][split]
    for index in np.linspace(0, len(stored) - 1, 8).astype(int).tolist():
        row, made = stored[index], tiny_earth.sequence_row(split, index)
        for picture, pixels in zip(row.pop("frames"), made.pop("frames"), strict=True):
            assert distance(picture, pixels) < 14
        assert row == made


def test_counts(tables):
    for table, splits in tiny_earth.COUNTS.items():
        assert {split: len(tables[table][split]) for split in splits} == splits
    assert tiny_earth.COUNTS["scenes"] == {"train": 5000, "validation": 500, "test": 500}
    assert tiny_earth.COUNTS["sequences"] == {"train": 2000, "validation": 200, "test": 600}


def test_no_site_appears_twice(tables):
    sites = [site for splits in tables.values() for table in splits.values()
             for site in table["site"]]
    assert len(set(sites)) == len(sites)


def test_no_two_rows_of_a_split_are_the_same(tables):
    for column, splits in (("image", tables["scenes"]), ("frames", tables["sequences"])):
        for table in splits.values():
            pixels = table.with_format("arrow")[:][column].to_pylist()
            assert len({str(row) for row in pixels}) == len(table)


@pytest.mark.parametrize("split", SPLITS)
def test_every_stored_sentence_is_true(tables, split):
    for row in without_images(tables["scenes"][split]).select(range(500)):
        scene = Scene.from_json(row["scene"])
        assert [row[f"caption_{k}"] for k in range(5)] == tiny_earth.captions(scene)
    for row in without_images(tables["sequences"][split]):
        frames = [Scene.from_json(text) for text in row["scenes"]]
        assert row["caption"] == tiny_earth.describe_sequence(frames)
        assert len(row["dates"]) == len(row["conditions"]) == len(frames)
        assert row["dates"] == sorted(set(row["dates"]))


@pytest.mark.parametrize("split", SPLITS)
def test_events_and_lengths_are_well_spread(tables, split):
    table = without_images(tables["sequences"][split])
    lengths = [len(dates) for dates in table["dates"]]
    assert set(lengths) == set(range(2, tiny_earth.MAX_FRAMES + 1))
    spread = 4 * np.sqrt(0.11 / len(lengths))  # four standard deviations of a share of 1 in 8
    long = np.mean(np.array(lengths) > 8)
    assert abs(long - 0.4) < 2 * spread
    assert abs(lengths.count(16) / len(lengths) - 0.16) < spread
    events = list(table["event"])
    for event in tiny_earth.EVENTS:  # two frames cannot hold "come and go": 11% of it, not 12.7%
        expected = 0.11 if event == "come and go" else 0.127
        assert abs(events.count(event) / len(events) - expected) < spread, event


@pytest.mark.parametrize("split", SPLITS)
def test_a_change_cannot_be_told_from_the_second_image_alone(tables, split):
    several = nothing = pairs = 0
    longer = [texts for texts in tables["sequences"][split]["scenes"] if len(texts) > 2]
    for texts in longer:
        *earlier, last = [Scene.from_json(text) for text in texts]
        answers = [tiny_earth.describe_change(scene, last) for scene in earlier]
        several += len(set(answers)) > 1
        nothing += answers.count("Nothing changed.")
        pairs += len(answers)
    assert several > 0.5 * len(longer)
    assert 0.2 < nothing / pairs < 0.6


def test_frames_as_rows(tables):
    some = tables["sequences"]["test"].select([7, 3])
    rows, lengths = tiny_earth.frames_as_rows(some)
    frames = [frame for row in some for frame in row["frames"]]
    assert lengths == [len(row["frames"]) for row in some] and len(rows) == sum(lengths)
    for row, frame in zip(rows, frames, strict=True):
        assert np.array_equal(np.asarray(row["image"]), np.asarray(frame))


def test_the_data_stay_small():
    files = (data_folder() / "tiny_earth").rglob("*")
    assert sum(file.stat().st_size for file in files if file.is_file()) <= 21e6


def test_loading_needs_no_network_and_writes_nothing_beside_the_data(monkeypatch, tmp_path):
    def refuse(*_, **__):
        raise AssertionError("loading asked for the network")

    def look():
        return sorted((str(f), f.stat().st_mtime_ns) for f in folder.rglob("*"))

    folder = data_folder()
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path)
    before = look()
    assert tiny_earth.load_scenes("validation")[0]["image"].size == (64, 64)
    assert tiny_earth.load_sequences("validation")[0]["frames"][0].size == (64, 64)
    assert look() == before


def test_missing_data_are_named(monkeypatch, tmp_path):
    with pytest.raises(ValueError, match="unknown split 'dev'"):
        tiny_earth.load_scenes("dev")
    monkeypatch.setenv("VLM_DATA", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=f"{tmp_path}.*python -m vlm_utils.tiny_earth"):
        tiny_earth.load_scenes("train")
    (tmp_path / "tiny_earth").mkdir()
    assert data_folder() == tmp_path
    with pytest.raises(FileNotFoundError, match="train.parquet.*python -m vlm_utils.tiny_earth"):
        tiny_earth.load_scenes("train")


def test_a_small_world_can_be_built_elsewhere(monkeypatch, tmp_path, capsys):
    tiny_earth.build(tmp_path, {"scenes": {"test": 3}, "sequences": {"test": 2}})
    assert capsys.readouterr().out.count("\n") == 2
    monkeypatch.setenv("VLM_DATA", str(tmp_path))
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    assert len(tiny_earth.load_scenes("test")) == 3
    assert tiny_earth.load_sequences("test")[1]["event"] in tiny_earth.EVENTS
    assert not list(tmp_path.rglob("*.unfinished"))
