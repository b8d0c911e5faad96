"""What to ask of a data set before training: copies across splits, guessing, intervals, licence."""

import io
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance

from vlm_utils.datasets import (
    ImageTable,
    TaskDataset,
    Truth,
    build_tasks,
    load_series_table,
    own_samples,
)
from vlm_utils.evaluation import wilson_interval
from vlm_utils.real_data import (
    balance,
    checklist,
    domain_gap,
    guessing,
    licences,
    near_duplicates,
    perceptual_hash,
    samples_needed,
)
from vlm_utils.tiny_earth.turning import turn_image


@pytest.fixture(scope="module")
def tiles():
    """Tiles of 60 places, each a place of its own."""
    table = load_series_table("test")
    return [table.image(row) for row in range(60)]


def saved_again(picture: Image.Image) -> dict[str, Image.Image]:
    """A picture as copies of it come: other bytes, the same to the eye."""
    width, height = picture.size
    stream = io.BytesIO()
    picture.save(stream, "JPEG", quality=75)
    return {"jpeg": Image.open(stream).convert("RGB"),
            "large": picture.resize((3 * width, 3 * height), Image.Resampling.BICUBIC),
            "small": picture.resize((width // 2, height // 2)),
            "bright": ImageEnhance.Brightness(picture).enhance(1.1),
            "flat": ImageEnhance.Contrast(picture).enhance(0.8),
            "grey": picture.convert("L")}


# --- near-duplicates -----------------------------------------------------------------------------

@pytest.mark.parametrize("how", ["jpeg", "large", "small", "bright", "flat", "grey"])
def test_a_copy_is_found_however_it_was_saved(tiles, how):
    copies = [saved_again(tile)[how] for tile in tiles]
    found = near_duplicates(tiles, copies)
    pairs = set(zip(found["first"], found["second"], strict=True))
    assert len(pairs & {(f"picture {k}", f"picture {k}") for k in range(60)}) >= 57
    # The naive way, to compare bytes, finds none of them.
    known = {tile.tobytes() for tile in tiles}
    assert not any(copy.tobytes() in known for copy in copies)


def test_tiles_of_different_places_are_not_taken_for_copies(tiles):
    assert len(near_duplicates(tiles[:30], tiles[30:])) == 0
    assert near_duplicates(tiles[:30], tiles[30:]).columns.tolist() == ["first", "second",
                                                                        "different"]


def test_real_tiles_of_different_places_are_not_taken_for_copies(real_images):
    files = sorted(real_images.glob("eurosat/*/*.jpg"))[::16]
    assert len(files) >= 200 and len(near_duplicates(files)) == 0
    copies = [saved_again(Image.open(file).convert("RGB"))["large"] for file in files[:40]]
    assert len(near_duplicates(files[:40], copies)) >= 38


def test_turned_copies_are_found_if_asked_for(tiles):
    turned = [turn_image(tile, 1 + k % 7) for k, tile in enumerate(tiles)]
    missed = near_duplicates(tiles, turned)
    found = near_duplicates(tiles, turned, turned=True)
    assert len(missed) < 15 < 60 <= len(found)
    within = near_duplicates([tiles[0], turn_image(tiles[0], 3), tiles[9]], turned=True)
    assert within[["first", "second"]].values.tolist() == [["picture 0", "picture 1"]]


def test_folders_of_two_splits_are_compared(tiles, tmp_path):
    for k, tile in enumerate(tiles[:12]):
        file = tmp_path / ("train" if k < 8 else "test") / "deep" / f"{k}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        tile.save(file)
    (tmp_path / "train" / "notes.txt").write_text("no picture")
    saved_again(tiles[3])["jpeg"].save(tmp_path / "test" / "other name.jpg", quality=80)
    found = near_duplicates(tmp_path / "train", str(tmp_path / "test"))
    assert len(found) == 1
    assert found["first"][0].endswith("3.png") and found["second"][0].endswith("other name.jpg")
    within = near_duplicates(tmp_path)
    assert len(within) == 1 and within["different"][0] <= 0.15


def test_tables_are_compared_by_the_names_of_their_rows(earth_table):
    found = near_duplicates(earth_table, earth_table, most_different=0)
    same = found[found["first"] == found["second"]]
    assert len(same) == len(earth_table) and same["first"][0].startswith("tiny table row ")


def test_pictures_of_one_colour_are_alike_only_in_the_same_colour():
    """A trap: without waves, every plain picture has the same hash."""
    plain = [Image.new("RGB", (64, 64), colour) for colour in ("black", "white", "grey")]
    assert len(near_duplicates(plain)) == 0
    assert len(near_duplicates([plain[0]], [Image.new("L", (30, 20), 3)])) == 1
    assert perceptual_hash(plain[0]).shape == (143,) and not perceptual_hash(plain[0]).any()


@pytest.mark.parametrize("wrong", ["gone", "empty", []])
def test_no_pictures_are_no_set(wrong, tmp_path, tiles):
    (tmp_path / "empty").mkdir()
    wrong = tmp_path / wrong if wrong else wrong
    with pytest.raises(ValueError, match="holds no pictures|is not a folder: give one"):
        near_duplicates(wrong, tiles[:1])


def test_a_picture_that_cannot_be_read_is_named(tmp_path, tiles):
    (tmp_path / "broken.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match="broken.png: is not an image"):
        near_duplicates(tmp_path, tiles[:1])


# --- answers -------------------------------------------------------------------------------------

@pytest.fixture
def samples(tiles):
    """40 questions about 20 tiles: 30 times yes, 10 times no; 4 of another task."""
    rows = [{"images": [tiles[k % 20]], "prompt": "A road?", "answer": "No." if k % 4 == 3 else
             "Yes.", "task": "road"} for k in range(40)]
    rows += [{"images": tiles[k:k + 2], "prompt": "Which?", "answer": f"It is {k}.",
              "task": "which"} for k in range(4)]
    return own_samples([*rows, {"images": [], "prompt": "Unknown?", "answer": None}])


def test_guessing_is_the_share_of_the_commonest_answer(samples):
    found = guessing(samples).set_index("task")
    road = found.loc["road"]
    assert (road["share"], road["commonest"], road["answers"], road["samples"]) == (
        0.75, "Yes.", 2, 40)
    assert (road["low"], road["high"]) == wilson_interval(30, 40)
    assert found.loc["which", "only_once"] == 1 and found.loc["which", "share"] == 0.25
    assert "own" not in found.index                 # its answer is not known


def test_balance_counts_each_answer_within_its_task(samples):
    found = balance(samples)
    assert found["samples"].sum() == 44 and found.groupby("task")["share"].sum().eq(1).all()
    road = balance(samples, "road")
    assert road[["answer", "samples", "share"]].values.tolist() == [["Yes.", 30, 0.75],
                                                                    ["No.", 10, 0.25]]
    with pytest.raises(ValueError, match="no sample is of 'lake': the tasks are road, which"):
        balance(samples, "lake")


def test_answers_that_are_not_known_tell_nothing(tiles):
    nothing = own_samples([{"images": [tiles[0]], "prompt": "What?", "answer": None}], "mine")
    with pytest.raises(ValueError, match="mine: no sample has an answer"):
        guessing(nothing)


@pytest.mark.parametrize(("width", "accuracy"), [(0.1, 0.5), (0.05, 0.9), (0.3, 0.5), (0.02, 0.98),
                                                 (0.5, 0.0)])
def test_the_samples_needed_are_the_fewest_that_will_do(width, accuracy):
    count = samples_needed(width, accuracy)

    def wide(total):
        low, high = wilson_interval(round(accuracy * total), total)
        return high - low
    assert wide(count) <= width
    assert all(wide(total) > width * 0.98 for total in range(max(1, count - 3), count))


def test_half_right_needs_most_samples():
    assert samples_needed(0.1) == 381 and samples_needed(0.1, 0.9) < samples_needed(0.1)
    for wrong in ((0, 0.5), (1, 0.5), (0.1, 1.5)):
        with pytest.raises(ValueError, match="width is between 0 and 1 and accuracy from 0 to 1"):
            samples_needed(*wrong)


# --- domain, licence, the whole list -------------------------------------------------------------

def encoded(count, shift=0.0, seed=0, dim=16, frames=1):
    """A table of encoded images whose patches differ by chance, by place (if a place has several
    frames) and, in one direction, by the set."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(count, 4, dim, generator=generator)
    if frames > 1:
        places = torch.randn(count // frames, 1, dim, generator=generator)
        values += 3 * places.repeat_interleave(frames, dim=0)
    values[:, :, 3] += shift
    sites = [tuple(range(k, k + frames)) for k in range(0, count, frames)]
    return ImageTable("mine", [None] * count, Truth([None] * count, [[]] * count, sites),
                      image_features=values.half())


def test_the_same_world_cannot_be_told_apart_and_another_can():
    same = domain_gap(encoded(200), encoded(200, seed=1))
    assert same["low"] < 0.55 and same["told_apart"] < 0.65 and same["images"] == 400
    other = domain_gap(encoded(200), encoded(150, shift=3.0, seed=1))
    assert other["told_apart"] > 0.95 and other["images"] == 300
    assert domain_gap(encoded(200), encoded(200, seed=1)) == same
    with pytest.raises(ValueError, match="the smaller set shows 10 places: give at least 20"):
        domain_gap(encoded(200), encoded(60, frames=6))
    with pytest.raises(ValueError, match="mine: is not encoded"):
        domain_gap(encoded(200), replace(encoded(200), image_features=None))


def test_frames_of_a_place_do_not_give_its_set_away():
    """A trap: with frames of a place in both halves, the classifier knows the place."""
    tables = [encoded(600, seed=seed, frames=15, dim=64) for seed in (0, 1)]
    naive = [replace(table, truth=replace(table.truth, sites=[])) for table in tables]
    assert domain_gap(*naive)["told_apart"] > 0.8
    assert domain_gap(*tables)["low"] < 0.55


def test_fewer_images_than_dimensions_are_not_told_apart_by_chance():
    """A trap: with more dimensions than images, a classifier fits anything it has learnt from."""
    assert domain_gap(encoded(30, dim=400), encoded(30, dim=400, seed=1))["low"] < 0.6


def test_a_licence_is_found_where_it_is_stated(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "README.md").write_text("# Pictures\nIn 2019.\nPhotographs under CC BY 4.0.\n")
    (tmp_path / "data" / "LICENSE").write_text("Creative Commons Zero\n")
    (tmp_path / "captions.txt").write_text("a licence plate")       # no statement of anything
    found = licences(tmp_path)
    assert found.values.tolist() == [["README.md", "Photographs under CC BY 4.0."],
                                     ["data/LICENSE", "Creative Commons Zero"]]
    assert licences(tmp_path / "data")["file"].tolist() == ["LICENSE"]
    with pytest.raises(ValueError, match="is not a folder"):
        licences(tmp_path / "gone")


def test_a_licence_is_not_the_name_of_a_column(tmp_path):
    """A trap: the first line of a table of licences holds the word, and no licence."""
    (tmp_path / "ATTRIBUTION.tsv").write_text("file\tlicence\n1.jpg\tCC BY 2.0\n2.jpg\tCC0\n")
    (tmp_path / "credits.csv").write_text("file,licence\n1.jpg,mine\n")
    assert licences(tmp_path).values.tolist() == [["ATTRIBUTION.tsv", "1.jpg CC BY 2.0"]]


def test_many_questions_about_few_images_are_not_many(tmp_path):
    """A trap: 200 questions about six pictures look like a large test."""
    table = load_series_table("test")
    few = replace(table, dataset=table.dataset.select(range(6)), truth=Truth(
        table.truth.scenes[:6], table.truth.captions[:6], []))
    asked = build_tasks(few, {"refer 1": 200}, seed=0)
    assert len(asked) > 50
    found = checklist(asked, asked, tmp_path).set_index("question")["to_do"]
    assert found["Is the test large enough?"] == \
        "add images: with 6, an interval can be more than 30 points wide"


def test_the_checklist_says_what_is_to_be_done(samples, tmp_path):
    leaking = checklist(samples, samples, tmp_path).set_index("question")
    assert leaking["found"]["Are test images in training?"].startswith("2")
    assert "keep both on one side" in leaking["to_do"]["Are test images in training?"]
    assert "road of 1: 75%" in leaking["found"]["What does guessing score?"]
    assert leaking["to_do"]["What does guessing score?"] == \
        "compare every score of road with 75%"
    assert "without a licence nothing is allowed" in leaking["to_do"]["May it be used, and shared?"]
    assert leaking["to_do"].ne("").all()


def test_a_large_clean_set_leaves_only_the_licence_to_be_read(tmp_path):
    table = load_series_table("train")
    (tmp_path / "README.md").write_text("Licence: CC0")
    mixture = {"select 2": 2000}

    def part(start):
        rows = list(range(start, start + 400))
        truth = table.truth
        some = replace(table, dataset=table.dataset.select(rows), truth=Truth(
            [truth.scenes[r] for r in rows], [truth.captions[r] for r in rows], []))
        return build_tasks(some, mixture, start)

    train, test = part(0), part(1000)
    found = checklist(train, TaskDataset(test.table, test.recipes), tmp_path)
    assert np.flatnonzero(found["to_do"] != "").tolist() == [4]
    assert found["found"][4] == "README.md: Licence: CC0"
