"""Clips for VLM_IMAGES: one, or a folder of them; their frames, times, places and cache."""

import shutil
import warnings

import pytest
from clips import shades, still, write_animation, write_video
from PIL import Image

from vlm_utils import profiles
from vlm_utils.datasets import build_tasks, load_image_table
from vlm_utils.profiles import get_profile
from vlm_utils.sources import clips
from vlm_utils.sources.images import UnreadableImage
from vlm_utils.sources.picture_folders import list_pictures, load_image_folder, sites_of

TINY = get_profile("tiny")


@pytest.fixture(autouse=True)
def output(tmp_path, monkeypatch):
    monkeypatch.setenv("VLM_OUTPUT", str(tmp_path / "out"))
    return tmp_path / "out"


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "mine"
    path.mkdir()
    return path


@pytest.fixture
def no_reading(monkeypatch):
    """From its call on, a clip that is read again is an error."""
    def forbid():
        monkeypatch.setattr(clips, "iterate_frames", lambda *given, **more: pytest.fail("read"))
    return forbid


def seen(pictures):
    return shades([Image.open(picture.source) for picture in pictures])


def test_a_clip_is_a_place_seen_several_times(folder, monkeypatch):
    pytest.importorskip("av")
    path = write_video(folder / "clip.mp4", range(0, 4000, 40))
    monkeypatch.setenv("VLM_IMAGES", str(path))
    assert profiles.image_folder() == path.resolve()
    table = load_image_table(TINY, "test")
    assert len(table) == 16 and table.truth.sites == [tuple(range(16))]
    times = table.dataset["time"][:]
    assert times == pytest.approx([(2 * k + 1) / 8 for k in range(16)], abs=0.05)
    assert shades([table.image(row) for row in range(16)]) == [round(t / 0.04) % 25 for t in times]
    assert table.where(3) == "clip.mp4 row 3 (0.84 s)"
    recipes = build_tasks(table, {"sequence 2-4": 12}, seed=0).recipes
    assert {recipe.num_images for recipe in recipes} == {2, 3, 4}
    assert all(list(recipe.rows) == sorted(recipe.rows) for recipe in recipes)


def test_each_clip_of_a_folder_is_a_place_of_its_own(folder):
    for name in ("site_10", "site_9"):
        write_animation(folder / f"{name}.gif", [100] * (4 if name == "site_9" else 5))
    with pytest.warns(UserWarning, match="site_9.gif: 16 frames were asked for and it has 4"):
        pictures = list_pictures(folder)
    assert [picture.clip.name for picture in pictures] == ["site_9.gif"] * 4 + ["site_10.gif"] * 5
    assert seen(pictures) == [0, 1, 2, 3, 0, 1, 2, 3, 4]
    assert [picture.time for picture in pictures[:4]] == pytest.approx([0, 0.1, 0.2, 0.3])
    assert sites_of(pictures) == [(0, 1, 2, 3), (4, 5, 6, 7, 8)]


@pytest.mark.filterwarnings("ignore:.*16 frames were asked for")
def test_no_sequence_mixes_the_frames_of_two_clips(folder, monkeypatch):
    for name in ("a", "b"):
        write_animation(folder / f"{name}.gif", [100] * 5)
    monkeypatch.setenv("VLM_IMAGES", str(folder))
    table = load_image_table(TINY, "test")
    assert table.truth.sites == [(0, 1, 2, 3, 4), (5, 6, 7, 8, 9)]


@pytest.mark.filterwarnings("ignore:.*16 frames were asked for")
def test_frames_are_read_once_and_never_written_beside_the_clip(folder, output, no_reading):
    path = write_animation(folder / "clip.webp", [100] * 5)
    first = load_image_folder(folder)
    assert [file.name for file in folder.iterdir()] == ["clip.webp"]
    assert len(list((output / "frames").rglob("*.png"))) == 5
    no_reading()
    again = load_image_folder(folder)
    assert again._fingerprint == first._fingerprint
    shutil.move(path, folder / "renamed.webp")          # the same content is found again
    assert load_image_folder(folder)._fingerprint == first._fingerprint


@pytest.mark.filterwarnings("ignore:.*16 frames were asked for")
def test_another_content_or_a_damaged_cache_is_read_again(folder, output):
    write_animation(folder / "clip.gif", [100] * 4)
    first = load_image_folder(folder)._fingerprint
    kept = sorted((output / "frames").rglob("*.png"))
    kept[2].write_bytes(b"broken")
    assert load_image_folder(folder)._fingerprint == first
    write_animation(folder / "clip.gif", [100] * 5)
    assert load_image_folder(folder)._fingerprint != first


def test_what_is_wrong_with_a_clip_is_said_each_time(folder):
    """A trap: the second time the frames come from the cache, and nothing is said."""
    path = write_animation(folder / "clip.gif", [100] * 20)
    path.write_bytes(path.read_bytes()[:-40])
    for _ in range(2):
        with pytest.warns(UserWarning, match="clip.gif: may be damaged or cut short"):
            list_pictures(folder)


def test_frames_of_a_large_clip_are_kept_small(folder):
    frames = [still(k, (2048, 64)) for k in range(4)]
    frames[0].save(folder / "clip.gif", save_all=True, append_images=frames[1:], duration=100)
    with pytest.warns(UserWarning, match="16 frames were asked for"):
        assert {Image.open(p.source).size for p in list_pictures(folder)} == {(1024, 32)}


def test_a_still_picture_among_clips_is_refused_by_name(folder):
    write_animation(folder / "a.gif", [100] * 4)
    still(1).save(folder / "b.png")
    with pytest.raises(ValueError, match="b.png: is a single picture among clips"):
        list_pictures(folder)


def test_a_video_beside_pictures_is_left_aside_with_a_word(folder):
    still(1).save(folder / "a.png")
    (folder / "b.mp4").write_bytes(b"whatever")
    with pytest.warns(UserWarning, match="not read as pictures, for their names: b.mp4"):
        assert [picture.file.name for picture in list_pictures(folder)] == ["a.png"]


def test_a_clip_that_cannot_be_read_is_named(folder):
    pytest.importorskip("av")
    (folder / "clip.mp4").write_bytes(b"no clip" * 99)
    with pytest.raises(UnreadableImage, match="clip.mp4: is not a video"):
        list_pictures(folder)


def test_a_clip_with_captions_in_metadata_is_refused_by_row(folder):
    write_animation(folder / "clip.gif", [100] * 4).rename(folder / "clip.mp4")
    (folder / "metadata.jsonl").write_text('{"file_name": "clip.mp4", "caption_0": "A lake."}\n')
    with pytest.raises(ValueError, match="metadata.jsonl, line 1: clip.mp4 is a clip"):
        list_pictures(folder)


@pytest.mark.parametrize("name", ["photo.png", "notes.txt"])
def test_a_file_that_is_no_clip_is_refused(folder, name, monkeypatch):
    still(0).save(folder / name, format="png")
    monkeypatch.setenv("VLM_IMAGES", str(folder / name))
    with pytest.raises(ValueError, match=f"{name}: is neither a folder of pictures nor a clip"):
        load_image_table(TINY, "test")


def test_a_clip_of_too_few_frames_is_refused_in_words(folder, monkeypatch):
    monkeypatch.setenv("VLM_IMAGES", str(write_animation(folder / "clip.gif", [100] * 3)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(ValueError, match="clip.gif holds 3 frames .* need at least 4"):
            load_image_table(TINY, "test")


def test_splits_may_hold_clips(folder):
    for split in ("train", "test"):
        (folder / split).mkdir()
        write_animation(folder / split / f"{split}.gif", [100] * 16)
    pictures = list_pictures(folder)
    assert {(p.split, p.clip.stem) for p in pictures} == {("train", "train"), ("test", "test")}
