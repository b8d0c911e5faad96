"""Reading clips: which frames, at which times, from which files; what is refused, and why."""

import math
import struct
import sys
import warnings

import numpy as np
import pytest
from clips import (
    CONTAINERS,
    TIMES,
    shade,
    shades,
    still,
    write_animation,
    write_sound,
    write_video,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from vlm_utils.sources import frames as reader
from vlm_utils.sources import images, video
from vlm_utils.sources.frames import iterate_frames, read_frames
from vlm_utils.sources.images import UnreadableImage
from vlm_utils.sources.sampling import choose_frames, frame_times, moments_every, shown_at

SECONDS = [time / 1000 for time in TIMES]
av = pytest.importorskip("av", reason="PyAV is not installed: python -m pip install av")


def numbers_at(times):
    """The frames that appear at these times, modulo the number of shades."""
    return [SECONDS.index(pytest.approx(time, abs=2e-3)) % 25 for time in times]


# --- which moments ------------------------------------------------------------------------------

lengths = st.floats(0.05, 1e5)
clips = st.lists(st.integers(1, 5000), min_size=1, max_size=60).map(
    lambda stays: ([sum(stays[:k]) / 1000 for k in range(len(stays))], sum(stays) / 1000))


@given(lengths, st.integers(1, 100), st.floats(-100, 100))
def test_moments_are_the_centres_of_equal_segments(seconds, count, start):
    found = frame_times(seconds, count, start)
    assert len(found) == count
    assert all(start < t < start + seconds for t in found)
    edges = np.linspace(start, start + seconds, count + 1)
    assert np.allclose(found, (edges[1:] + edges[:-1]) / 2, rtol=1e-9, atol=1e-9 * abs(start))


@given(st.integers(1, 3000), st.integers(1, 60))
def test_moments_at_an_interval_are_never_one_too_many(count, rate):
    """A trap: with a float arange, 0, 0.1, ... of 0.3 s is four moments and not three."""
    every = 1 / rate
    found = moments_every(count * every, every)
    assert len(found) == count
    assert found == [k * every for k in range(count)]


@given(lengths, st.floats(0.01, 1e5))
def test_moments_at_an_interval_cover_the_clip_and_do_not_leave_it(seconds, every):
    if seconds / every > 1e4:
        return
    found = moments_every(seconds, every)
    assert found[0] == 0 and found[-1] < seconds
    assert found[-1] + every >= seconds * (1 - 1e-6) - 1e-6 * every


@given(clips, st.integers(1, 80))
def test_each_frame_is_chosen_once_and_as_many_as_were_asked_for(clip, count):
    starts, end = clip
    found = choose_frames(starts, end, count)
    assert len(found) == min(count, len(starts))
    assert all(a < b for a, b in zip(found, found[1:], strict=False))
    assert 0 <= found[0] and found[-1] < len(starts)


@given(clips, st.integers(1, 80))
def test_frames_are_those_on_the_screen_if_these_are_all_different(clip, count):
    starts, end = clip
    there = [max(k for k, start in enumerate(starts) if start <= moment)
             for moment in frame_times(end, count)]
    if len(set(there)) == count < len(starts):
        assert choose_frames(starts, end, count) == there


def test_of_frames_of_equal_length_the_middle_ones_are_chosen():
    starts = [k / 10 for k in range(100)]
    assert choose_frames(starts, 10.0, 1) == [50]
    assert choose_frames(starts, 10.0, 4) == [12, 37, 62, 87]
    assert choose_frames(starts, 10.0, 100) == list(range(100))


def test_a_frame_that_stays_long_leaves_the_other_places_to_its_neighbours():
    """A trap: three of four moments lie in the first frame, which would be read three times."""
    assert choose_frames([0.0, 10.0, 10.1, 10.2, 10.3, 10.4], 10.5, 4) == [0, 1, 2, 3]


def test_a_moment_before_the_first_frame_shows_the_first():
    assert [shown_at([1.0, 2.0], t) for t in (0.0, 1.0, 1.9, 2.0, 9.0)] == [0, 0, 0, 1, 1]


@pytest.mark.parametrize("wrong", [0, -1, 1.5, True, "4"])
def test_a_count_that_is_none_is_refused_before_anything_is_opened(tmp_path, wrong):
    with pytest.raises(ValueError, match="count is a whole number of at least 1"):
        read_frames(tmp_path / "gone.mp4", count=wrong)


@pytest.mark.parametrize("wrong", [0, -2.0, math.nan, math.inf, "1"])
def test_an_interval_that_is_none_is_refused(tmp_path, wrong):
    with pytest.raises(ValueError, match="every_seconds is a number of seconds above 0"):
        read_frames(tmp_path / "gone.mp4", every_seconds=wrong)


@pytest.mark.parametrize("both", [{}, {"count": 2, "every_seconds": 1.0}])
def test_count_and_interval_are_one_choice(tmp_path, both):
    with pytest.raises(ValueError, match="either count or every_seconds"):
        read_frames(tmp_path / "gone.mp4", **both)


# --- videos -------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A clip of unequal durations in each container."""
    folder = tmp_path_factory.mktemp("clips")
    return {kind: write_video(folder / f"clip.{kind}") for kind in CONTAINERS}


@pytest.mark.parametrize("kind", CONTAINERS)
@pytest.mark.parametrize("count", [1, 3, 16, 40])
def test_frames_are_those_of_their_times(made, kind, count):
    """A trap: by number and rate, the header's or the mean one, other frames are read."""
    found, times = read_frames(made[kind], count)
    assert len(found) == count and times == sorted(times)
    assert shades(found) == numbers_at(times)
    centres = frame_times(6.0, count)
    if count <= 3:                              # here no frame is seen at two of the moments
        expected = [SECONDS[shown_at(SECONDS, moment)] for moment in centres]
        assert times == pytest.approx(expected, abs=2e-3)


@pytest.mark.parametrize("kind", CONTAINERS)
def test_all_frames_are_read_once_if_more_are_asked_for_and_a_warning_says_so(made, kind):
    """A trap: the first frame, or the last, again and again."""
    with pytest.warns(UserWarning, match=rf"clip.{kind}: 500 frames .* it has {len(TIMES)}: each"):
        found, times = read_frames(made[kind], 500)
    assert times == pytest.approx(SECONDS, abs=2e-3)
    assert shades(found) == [k % 25 for k in range(len(TIMES))]


@pytest.mark.parametrize("kind", CONTAINERS)
def test_an_interval_gives_what_is_on_the_screen_then(made, kind):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found, times = read_frames(made[kind], every_seconds=1.0)
    assert times == pytest.approx([0.0, 0.9, 1.7, 2.8, 4.0, 4.988, 5.987], abs=2e-3)
    assert shades(found) == numbers_at(times)


def test_an_interval_shorter_than_the_frames_reads_each_once(made):
    with pytest.warns(UserWarning, match="every 0.01 s is .* and only 64 different ones"):
        _, times = read_frames(made["mp4"], every_seconds=0.01)
    assert times == pytest.approx(SECONDS, abs=2e-3)


@pytest.mark.parametrize(("kind", "codec", "key_frames"), [
    ("mp4", "libx264", 250), ("mp4", "libx265", 20), ("mkv", "mpeg4", 5), ("webm", "libvpx", 30),
    ("mov", "libx264", 1)])
@pytest.mark.parametrize("count", [4, 25])
def test_seeking_finds_what_listing_finds(tmp_path, monkeypatch, kind, codec, key_frames, count):
    """With rare key frames and frames that are stored in another order than they are shown."""
    path = write_video(tmp_path / f"clip.{kind}", range(0, 8000, 40), codec,
                       key_frames=key_frames)
    expected = read_frames(path, count)[1]
    monkeypatch.setattr(video, "_SHORT", 20)    # as if it were long: probed, not listed
    listed = []
    monkeypatch.setattr(video.Video, "all_starts", lambda self: listed.append(self))
    found, times = read_frames(path, count)
    assert not listed, "not probed, and the test has seen nothing"
    assert times == expected
    assert times == pytest.approx(frame_times(8.0, count), abs=0.05)
    assert shades(found) == [round(t / 0.04) % 25 for t in times]


def test_a_long_clip_of_which_moments_fall_into_one_frame_is_listed_after_all(tmp_path,
                                                                              monkeypatch):
    path = write_video(tmp_path / "clip.mp4", [0, *range(9000, 10000, 10)])
    monkeypatch.setattr(video, "_SHORT", 20)
    found, times = read_frames(path, 10)
    assert len(set(times)) == 10
    assert times[:3] == pytest.approx([0.0, 9.0, 9.01], abs=2e-3)
    assert shades(found)[:3] == [0, 1, 2]


def test_of_a_long_clip_little_is_read(tmp_path, monkeypatch):
    """A trap: reading 16 frames by decoding all of them."""
    path = write_video(tmp_path / "clip.mp4", range(0, 120_000, 40), key_frames=25)
    decoded, kept = [], video.Video._picture
    refuse = video.Video._refuse_size
    monkeypatch.setattr(video.Video, "_refuse_size",
                        lambda self, *size: (decoded.append(size), refuse(self, *size)))
    monkeypatch.setattr(video.Video, "_picture", lambda self, frame: kept(self, frame))
    assert len(read_frames(path, 16)[0]) == 16
    assert len(decoded) < 16 * 30 < 3000


def test_frames_come_one_after_the_other(made):
    """Whoever handles them one by one never holds them all."""
    found = iterate_frames(made["mp4"], 8)
    assert shades([next(found)[0]]) == numbers_at([read_frames(made["mp4"], 8)[1][0]])
    found.close()


def test_an_avi_with_frames_in_another_order_is_read_in_order(tmp_path):
    """Such a file says when frames are decoded, and not when they are shown."""
    path = write_video(tmp_path / "clip.avi", range(0, 2000, 40), "libx264")
    with pytest.warns(UserWarning, match="it has 50"):
        found, times = read_frames(path, 99)
    assert times == pytest.approx([k / 25 for k in range(50)], abs=2e-3)
    assert shades(found) == [k % 25 for k in range(50)]


@pytest.mark.parametrize(("rotation", "corner"), [
    (90, "lower left"), (-90, "upper right"), (180, "lower right")])
@pytest.mark.parametrize("kind", ["mp4", "mov"])
def test_a_clip_is_turned_as_a_player_turns_it(tmp_path, kind, rotation, corner):
    """Degrees count against the clock; the mark is in the upper left corner as it is stored."""
    pixels = np.full((48, 64, 3), 30, np.uint8)
    pixels[:16, :16] = 220
    path = write_video(tmp_path / f"clip.{kind}", [0, 100, 200], rotation=rotation,
                       pictures=[Image.fromarray(pixels)] * 3)
    frame = read_frames(path, 1)[0][0]
    assert frame.size == ((64, 48) if rotation == 180 else (48, 64))
    values = np.asarray(frame.convert("L"))
    corners = {"upper left": values[4, 4], "upper right": values[4, -4],
               "lower left": values[-4, 4], "lower right": values[-4, -4]}
    assert max(corners, key=corners.get) == corner and corners[corner] > 150


@pytest.mark.parametrize("kind", CONTAINERS)
def test_a_clip_of_one_frame_has_one(tmp_path, kind):
    path = write_video(tmp_path / f"clip.{kind}", [0])
    found, times = read_frames(path, 1)
    assert shades(found) == [0] and times == [0.0]
    assert read_frames(path, every_seconds=60.0)[1] == [0.0]


def test_a_clip_without_pictures_is_refused_by_name(tmp_path):
    with pytest.raises(UnreadableImage, match="sound.mp4: holds no frame: it has no video in it"):
        read_frames(write_sound(tmp_path / "sound.mp4"), 4)


@pytest.mark.parametrize("content", [b"", b"no clip at all" * 50, b"\0" * 3000])
def test_what_is_no_clip_is_refused_by_name(tmp_path, content):
    path = tmp_path / "clip.mp4"
    path.write_bytes(content)
    with pytest.raises(UnreadableImage, match="clip.mp4: is not a video that can be read"):
        read_frames(path, 4)


def test_a_missing_file_and_a_folder_are_refused_by_name(tmp_path):
    with pytest.raises(UnreadableImage, match="gone.mp4: cannot be opened"):
        read_frames(tmp_path / "gone.mp4", 4)
    with pytest.raises(UnreadableImage, match="it is a folder"):
        read_frames(tmp_path, 4)


def test_a_playlist_that_calls_itself_a_clip_opens_nothing_else(tmp_path, made):
    """A trap: FFmpeg reads what a playlist names, other files and pages among it."""
    path = tmp_path / "clip.mp4"
    for text in (f"#EXTM3U\n#EXTINF:1,\n{made['mp4']}\n#EXT-X-ENDLIST\n",
                 f"ffconcat version 1.0\nfile '{made['mp4']}'\n"):
        path.write_text(text)
        with pytest.raises(UnreadableImage, match="clip.mp4: is not a video that can be read"):
            read_frames(path, 2)


# --- damaged files ------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def noisy(tmp_path_factory):
    """Clips with so much in each frame that a share of the bytes is a share of the frames."""
    folder, rng = tmp_path_factory.mktemp("noisy"), np.random.default_rng(0)
    pictures = []
    for k in range(100):
        pixels = rng.integers(0, 256, (48, 64, 3), np.uint8)
        pixels[8:40, 16:48] = shade(k)
        pictures.append(Image.fromarray(pixels))
    made = {kind: write_video(folder / f"clip.{kind}", range(0, 4000, 40), pictures=pictures,
                              options={"movflags": "faststart"} if kind in ("mp4", "mov") else {})
            for kind in CONTAINERS}
    return made, pictures


@pytest.mark.parametrize("kind", CONTAINERS)
@pytest.mark.parametrize("share", [0.4, 0.8, 0.97])
def test_a_cut_clip_gives_the_frames_up_to_the_cut_and_a_warning(noisy, tmp_path, kind, share):
    data = noisy[0][kind].read_bytes()
    path = tmp_path / f"cut.{kind}"
    path.write_bytes(data[:int(share * len(data))])
    with pytest.warns(UserWarning, match=rf"cut.{kind}: may be damaged or cut short"):
        found, times = read_frames(path, 8)
    assert len(found) == 8
    assert times[-1] < 4.0 * share + 1
    assert shades(found) == [round(t / 0.04) % 25 for t in times]


def test_a_clip_whose_table_was_never_written_is_refused(tmp_path, made):
    """An mp4 that was cut while it was recorded says nowhere where its frames are."""
    path = tmp_path / "cut.mp4"
    data = made["mp4"].read_bytes()
    path.write_bytes(data[:data.index(b"moov") - 10])
    with pytest.raises(UnreadableImage, match="cut.mp4: "):
        read_frames(path, 4)


@pytest.mark.parametrize("kind", CONTAINERS)
def test_flipped_bytes_never_end_in_anything_but_frames_or_a_reason(noisy, tmp_path, kind):
    data, rng = noisy[0][kind].read_bytes(), np.random.default_rng(1)
    for turn in range(12):
        changed = bytearray(data)
        for place in rng.integers(0, len(data), 1 + 20 * (turn % 2)):
            changed[place] = rng.integers(256)
        path = tmp_path / f"{turn}.{kind}"
        path.write_bytes(changed)
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            try:
                found, times = read_frames(path, 8)
            except UnreadableImage as error:
                assert path.name in str(error)
                continue
        assert 1 <= len(found) == len(times) <= 8 and times == sorted(set(times))
        assert len(found) == 8 or said


@pytest.mark.parametrize("short", [20, 2000])
@pytest.mark.parametrize("said", [0.4, 20.0])
def test_the_header_is_not_believed_about_the_duration(tmp_path, monkeypatch, said, short):
    """Listed (2000) and probed (20)."""
    monkeypatch.setattr(video, "_SHORT", short)
    data = bytearray(write_video(tmp_path / "clip.mkv", range(0, 4000, 40)).read_bytes())
    place = data.index(b"\x44\x89\x88") + 3         # Duration, a double of 8 bytes, milliseconds
    data[place:place + 8] = struct.pack(">d", said * 1000)
    path = tmp_path / "wrong.mkv"
    path.write_bytes(data)
    with av.open(str(path)) as clip:
        assert clip.duration / 1e6 == pytest.approx(said)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found, times = read_frames(path, 4)
    assert times == pytest.approx([0.48, 1.48, 2.48, 3.48], abs=0.03)
    assert shades(found) == [round(t / 0.04) % 25 for t in times]
    texts = [str(warning.message) for warning in caught]
    assert any("its header says 20.0 s, and its frames end at 4.0 s" in text
               for text in texts) == (said == 20.0)


# --- memory -------------------------------------------------------------------------------------

def test_frames_that_would_fill_the_memory_are_refused(made, monkeypatch):
    monkeypatch.setattr(reader, "MAX_BYTES", 64 * 48 * 3 * 10)
    assert len(read_frames(made["mp4"], 10)[0]) == 10
    with pytest.raises(UnreadableImage, match="11 frames of 64 x 48 pixels would take 0 MB"):
        read_frames(made["mp4"], 11)
    assert len(list(iterate_frames(made["mp4"], 11, longest=32))) == 11


def test_frames_of_too_many_pixels_are_refused_before_one_is_decoded(made, monkeypatch):
    monkeypatch.setattr(video, "MAX_PIXELS", 3000)
    with pytest.raises(UnreadableImage, match="clip.mp4: its frames are 64 x 48 pixels, more"):
        read_frames(made["mp4"], 1)


def test_an_animation_of_too_many_pixels_is_refused(tmp_path, monkeypatch):
    path = write_animation(tmp_path / "clip.gif", [100] * 3)
    monkeypatch.setattr(images, "MAX_PIXELS", 3000)
    with pytest.raises(UnreadableImage, match="clip.gif: is 64 x 48 pixels"):
        read_frames(path, 1)


def test_frames_are_scaled_down_and_never_up(made):
    assert {frame.size for frame, _ in iterate_frames(made["mp4"], 3, longest=32)} == {(32, 24)}
    assert {frame.size for frame, _ in iterate_frames(made["mp4"], 3, longest=99)} == {(64, 48)}


# --- animations ---------------------------------------------------------------------------------

DURATIONS = [100, 900, 50, 250, 700, 1000]
STARTS = [0.0, 0.1, 1.0, 1.05, 1.3, 2.0]
KINDS = ("gif", "webp", "png")


@pytest.fixture
def without_pyav(monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)


@pytest.mark.parametrize("kind", KINDS)
def test_animations_are_read_without_a_further_package(tmp_path, without_pyav, kind):
    path = write_animation(tmp_path / f"clip.{kind}", DURATIONS)
    found, times = read_frames(path, 6)
    assert times == pytest.approx(STARTS) and shades(found) == [0, 1, 2, 3, 4, 5]
    found, times = read_frames(path, 3)                 # at 0.5, 1.5 and 2.5 s of 3
    assert times == pytest.approx([0.1, 1.3, 2.0]) and shades(found) == [1, 4, 5]
    found, times = read_frames(path, every_seconds=1.0)
    assert times == pytest.approx([0.0, 1.0, 2.0]) and shades(found) == [0, 2, 5]
    with pytest.warns(UserWarning, match="7 frames were asked for and it has 6"):
        assert len(read_frames(path, 7)[0]) == 6


@pytest.mark.parametrize("kind", KINDS)
def test_an_animation_may_be_one_picture(tmp_path, kind):
    path = tmp_path / f"clip.{kind}"
    still(3).save(path, **({"lossless": True} if kind == "webp" else {}))
    found, times = read_frames(path, 1)
    assert shades(found) == [3] and times == [0.0]


def test_the_kind_of_a_file_is_seen_from_its_content(tmp_path, without_pyav):
    path = write_animation(tmp_path / "clip.gif", DURATIONS).rename(tmp_path / "clip.mp4")
    assert len(read_frames(path, 6)[0]) == 6


def test_the_still_of_a_png_is_no_frame(tmp_path):
    """Programs that know no animation show it instead."""
    path = tmp_path / "clip.png"
    still(9).save(path, save_all=True, append_images=[still(k) for k in (0, 1, 2)],
                  default_image=True, duration=100)
    found, times = read_frames(path, 3)
    assert shades(found) == [0, 1, 2] and times == pytest.approx([0.0, 0.1, 0.2])


def test_frames_without_a_duration_stay_as_long_as_in_browsers(tmp_path):
    path = write_animation(tmp_path / "clip.gif", [0] * 8)
    _, times = read_frames(path, 4)
    assert times == pytest.approx([0.1, 0.3, 0.5, 0.7])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("share", [0.3, 0.6, 0.95])
def test_a_cut_animation_gives_a_reason(tmp_path, kind, share):
    rng = np.random.default_rng(0)
    pictures = [Image.fromarray(rng.integers(0, 256, (48, 64, 3), np.uint8)) for _ in range(10)]
    path = tmp_path / f"clip.{kind}"
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=100)
    data = path.read_bytes()
    path.write_bytes(data[:int(share * len(data))])
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            found, times = read_frames(path, 2)
        except UnreadableImage as error:
            assert path.name in str(error) and kind == "webp"
            return
    assert any("may be damaged or cut short" in str(w.message) for w in said)
    assert len(found) == 2 and times[-1] < share


# --- without PyAV -------------------------------------------------------------------------------

def test_without_pyav_a_video_says_what_to_install(made, without_pyav):
    with pytest.raises(UnreadableImage, match="clip.mp4: .*PyAV.* python -m pip install av"):
        read_frames(made["mp4"], 2)
    with pytest.raises(ImportError):
        read_frames(made["mp4"], 2)


settings.register_profile("clips", deadline=None)
settings.load_profile("clips")
