"""Animated GIF, WebP and PNG: Pillow reads them, with the exact time that each frame stays."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from typing import IO

from PIL import Image

from vlm_utils.sources import images
from vlm_utils.sources.images import UnreadableImage

_FORMATS = ("GIF", "WEBP", "PNG")
_AT_ONCE = 100.0                    # milliseconds that browsers give to a frame of 0
_GIF_END = b";"


def is_animation_file(path: Path) -> bool:
    """Is it of a kind that Pillow reads frames of: GIF, WebP or PNG, by its first bytes?"""
    with open(path, "rb") as file:
        start = file.read(12)
    return start[:4] in (b"GIF8", b"\x89PNG") or (start[:4] == b"RIFF" and start[8:] == b"WEBP")


def is_animated(path: Path) -> bool:
    """Has the file several frames? False if that cannot be seen from it."""
    try:
        with open(path, "rb") as file, Image.open(file, formats=_FORMATS) as picture:
            return bool(getattr(picture, "is_animated", False))
    except Exception:               # what is wrong with it is said by the one who reads it
        return False


class Animation:
    """The frames of an animated picture, as `Video` has those of a video."""

    def __init__(self, path: Path, name: str):
        self.path, self.name, self.damage = path, name, ""
        self.size = (0, 0)          # of a frame, in pixels

    def __enter__(self) -> Animation:
        return self

    def __exit__(self, *error) -> None:
        pass                        # each walk opens the file, and closes it

    def probe(self, count: int) -> None:
        """No frame of an animation is known without those before it."""

    def all_starts(self) -> tuple[list[float], float]:
        """When each frame appears, and when the last disappears, in seconds."""
        durations = []
        for picture in self._walk():
            picture.load()          # WebP knows the duration only then, and damage shows
            durations.append(float(picture.info.get("duration") or _AT_ONCE))
        if not durations:
            raise UnreadableImage(f"{self.name}: holds no frame that can be read"
                                  + (f" ({self.damage})" if self.damage else ""))
        ends = list(accumulate(durations))
        return [t / 1000 for t in [0.0, *ends[:-1]]], ends[-1] / 1000

    def frames(self, starts: Sequence[float]) -> Iterator[tuple[Image.Image, float]]:
        """The frames that appear at these times, upright and RGB."""
        wanted, now = set(starts), 0.0
        for picture in self._walk():
            picture.load()
            if now / 1000 in wanted:
                # A copy is a picture of its own: it no longer knows of other frames.
                yield images.as_rgb(picture.copy(), self.name), now / 1000
            now += float(picture.info.get("duration") or _AT_ONCE)
            if now / 1000 > max(wanted):
                return

    def _walk(self) -> Iterator[Image.Image]:
        """Every frame in turn, up to the end or the damage."""
        number = 0
        try:
            with images.open_file(self.path, self.name) as stream, \
                    Image.open(stream, formats=_FORMATS) as picture:
                images.refuse_size(picture, self.name)
                self.size = picture.size
                # A GIF does not say how many frames it has: it ends where none follows.
                count = None if picture.format == "GIF" else getattr(picture, "n_frames", 1)
                # A PNG may bring a still for programs that know no animation: it is no frame.
                number = int(bool(picture.info.get("default_image")))
                while count is None or number < count:
                    try:
                        picture.seek(number)
                    except EOFError:
                        if count is None:
                            break
                        raise
                    picture.load()
                    yield picture
                    number += 1
                if count is None and not _has_gif_end(stream):
                    self.damage = "its end is missing"
        except UnreadableImage:
            raise
        except Image.DecompressionBombError as error:
            raise UnreadableImage(f"{self.name}: {error}: save it smaller") from error
        except Exception as error:  # Pillow's readers raise what they like for a broken file
            self.damage = f"frame {number + 1}: {type(error).__name__}: {error}"


def _has_gif_end(stream: IO[bytes]) -> bool:
    stream.seek(-min(64, stream.seek(0, 2)), 2)
    return stream.read().rstrip(b"\0\r\n").endswith(_GIF_END)
