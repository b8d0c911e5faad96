"""Frames of a clip with their times: a video, or an animated GIF, WebP or PNG."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

from vlm_utils.sources.animations import Animation, is_animation_file
from vlm_utils.sources.images import MAX_BYTES, UnreadableImage, check_file
from vlm_utils.sources.sampling import choose_frames, frame_times, moments_every, shown_at
from vlm_utils.sources.video import Video


def read_frames(path: str | Path, count: int | None = None,
                every_seconds: float | None = None) -> tuple[list[Image.Image], list[float]]:
    """Frames of a clip, upright and RGB, and the time at which each appears, in seconds.

    count: so many, at the centres of equal segments of the clip's time (`frame_times`), each frame
    once; if the clip has no more than that, all of them, and a warning says so. every_seconds: the
    frame on the screen at 0, every_seconds, 2 x every_seconds ... after the first. Give one of the
    two. Times are the presentation times of the frames themselves: what the header says of the
    number of frames, their rate or the duration is never used.
    mp4, mov, mkv, webm and avi need PyAV: pip install av; GIF, WebP and PNG do not.
    A damaged clip gives the frames up to the damage, with a warning.
    Raises UnreadableImage, a ValueError, naming the file, if it has no frame that can be read, is
    not a clip, or if its frames would take more than 600 MB of memory; ValueError for a count or
    an interval that is not above 0.
    """
    found = list(iterate_frames(path, count, every_seconds))
    return [frame for frame, _ in found], [time for _, time in found]


def iterate_frames(path: str | Path, count: int | None = None, every_seconds: float | None = None,
                   longest: int | None = None) -> Iterator[tuple[Image.Image, float]]:
    """As read_frames, one frame after the other: only one is in memory.

    longest: frames are scaled down so that no side has more pixels. Without it, all frames
    together may take 600 MB.
    """
    if (count is None) == (every_seconds is None):
        raise ValueError("give either count or every_seconds to say which frames are meant")
    path, name = Path(path), str(path)
    if count is not None:
        frame_times(1.0, count)                 # refuses what is not a number of frames
    else:
        moments_every(1.0, every_seconds)
    check_file(path, name)
    clip = Animation(path, name) if is_animation_file(path) else Video(path, name)
    try:
        with clip:
            yield from _read(clip, count, every_seconds, longest)
    except UnreadableImage:
        raise
    except Exception as error:      # readers raise what they like for a broken file
        raise UnreadableImage(f"{name}: is damaged, or a kind of clip that cannot be read "
                              f"({type(error).__name__}: {error})") from error


def _read(clip: Animation | Video, count: int | None, every: float | None,
          longest: int | None) -> Iterator[tuple[Image.Image, float]]:
    starts, taken = _plan(clip, count, every), 0
    if longest is None:
        _refuse_many(clip, len(starts))
    for frame, time in clip.frames(starts):
        if longest is not None and max(frame.size) > longest:
            frame.thumbnail((longest, longest), Image.Resampling.BICUBIC)
        taken += 1
        yield frame, time
    if not taken:
        raise UnreadableImage(f"{clip.name}: holds no frame that can be read"
                              + (f" ({clip.damage})" if clip.damage else ""))
    if taken < len(starts):
        clip.damage = clip.damage or "not every frame can be decoded"
    if clip.damage:
        warnings.warn(f"{clip.name}: may be damaged or cut short ({clip.damage}): {taken} frames "
                      "up to there are read", stacklevel=4)


def _plan(clip: Animation | Video, count: int | None, every: float | None) -> list[float]:
    """When the frames that are wanted appear, in seconds, each once."""
    if count is not None:
        probed = clip.probe(count)
        if probed is not None:
            return probed
        starts, end = clip.all_starts()
        chosen = choose_frames(starts, end, count)
        if len(chosen) < count:
            warnings.warn(f"{clip.name}: {count} frames were asked for and it has {len(chosen)}: "
                          "each of them is read once", stacklevel=5)
        return [starts[i] for i in chosen]
    starts, end = clip.all_starts()
    moments = moments_every(end - starts[0], every, starts[0])
    chosen = sorted({shown_at(starts, moment) for moment in moments})
    if len(chosen) < len(moments):
        warnings.warn(f"{clip.name}: a frame every {every:g} s is {len(moments)} frames, and only "
                      f"{len(chosen)} different ones are shown then: each of them is read once",
                      stacklevel=5)
    return [starts[i] for i in chosen]


def _refuse_many(clip: Animation | Video, count: int) -> None:
    width, height = clip.size
    memory = 3 * width * height * count
    if memory > MAX_BYTES:
        raise UnreadableImage(f"{clip.name}: {count} frames of {width} x {height} pixels would "
                              f"take {memory / 1e6:.0f} MB of memory, more than the "
                              f"{MAX_BYTES / 1e6:.0f} that are allowed: ask for fewer")
