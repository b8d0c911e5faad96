"""Clips that the tests write for themselves: frames that tell their number, at given times."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
from PIL import Image

MILLISECONDS = Fraction(1, 1000)
# Unequal on purpose: some frames stay a second, others 37 ms.
TIMES = [0, 100, 130, 500, 900, 1500, 1600, 1700, 2500, 2600, 2800, 4000, *range(4100, 6000, 37)]
CONTAINERS = {"mp4": "libx264", "mov": "mpeg4", "mkv": "libx264", "webm": "libvpx-vp9",
              "avi": "mpeg4"}


def shade(number: int) -> int:
    """The grey of frame `number`: 25 of them, far enough apart for every codec."""
    return 10 + 9 * (number % 25)


def still(number: int, size: tuple[int, int] = (64, 48)) -> Image.Image:
    return Image.fromarray(np.full((size[1], size[0], 3), shade(number), np.uint8))


def shades(frames: Sequence[Image.Image]) -> list[int]:
    """For each frame, the number modulo 25 that its middle shows."""
    middles = [np.asarray(frame)[frame.height // 2, frame.width // 2].mean() for frame in frames]
    return [round((value - 10) / 9) for value in middles]


def write_video(path: Path, times: Sequence[int] = TIMES, codec: str | None = None,
                pictures: Sequence[Image.Image] | None = None, key_frames: int = 12,
                rotation: int = 0, options: dict | None = None) -> Path:
    """A video whose frame k appears at times[k] milliseconds, and shows shade(k).

    rotation: by which a player turns it, in degrees, as a telephone notes it. options: of the
    container.
    """
    import av
    pictures = pictures or [still(k) for k in range(len(times))]
    with av.open(str(path), "w", options=options or {}) as clip:
        stream = clip.add_stream(codec or CONTAINERS[path.suffix[1:]], rate=30)
        stream.width, stream.height = pictures[0].size
        stream.pix_fmt = "yuv420p"
        stream.codec_context.time_base = stream.time_base = MILLISECONDS
        stream.codec_context.gop_size = key_frames
        if rotation:
            stream.set_display_rotation(rotation)
        for time, picture in zip(times, pictures, strict=True):
            frame = av.VideoFrame.from_image(picture)
            frame.pts, frame.time_base = time, MILLISECONDS
            clip.mux(stream.encode(frame))
        clip.mux(stream.encode(None))
    return path


def write_sound(path: Path) -> Path:
    """A file with sound and no picture."""
    import av
    with av.open(str(path), "w") as clip:
        stream = clip.add_stream("aac", rate=44100)
        frame = av.AudioFrame(format="fltp", layout="mono", samples=1024)
        frame.rate, frame.pts = 44100, 0
        for plane in frame.planes:
            plane.update(bytes(plane.buffer_size))
        clip.mux(stream.encode(frame))
        clip.mux(stream.encode(None))
    return path


def write_animation(path: Path, durations: Sequence[int]) -> Path:
    """An animated GIF, WebP or PNG whose frame k stays durations[k] ms, and shows shade(k)."""
    first, *rest = [still(k) for k in range(len(durations))]
    lossless = {"lossless": True} if path.suffix == ".webp" else {}
    first.save(path, save_all=True, append_images=rest, duration=list(durations), **lossless)
    return path
