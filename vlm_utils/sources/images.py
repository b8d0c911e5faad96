"""Picture files: opened with care, refused with a reason that names the file."""

from __future__ import annotations

import io
import os
import stat
import warnings
from pathlib import Path
from typing import IO

from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from vlm_utils.sources.depth import Depth, black_and_white, is_deep, measure, to_eight_bits

# Nothing else is tried: Pillow's reader of EPS, for one, starts Ghostscript. HEIF is read if an
# add-on of Pillow's (pillow-heif) has been registered.
FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "BMP", "TIFF", "GIF", "AVIF", "HEIF")
SUFFIXES = {".jpg", ".jpeg", ".jfif", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".avif",
            ".heic", ".heif"}
MAX_PIXELS = 100_000_000
MAX_BYTES = 600_000_000             # of memory while a picture is opened, and of a file
_MANY_PIXELS = 25_000_000           # a JPEG of more is decoded at half its width and height
_DARK = 64                          # of 256 levels: what 14 of 16 bits reach at most


class UnreadableImage(ValueError):
    """A picture that is not read; the message names it and says why."""


def open_image(source: str | Path | bytes, name: str | None = None,
               shown: tuple[float, float] | None = None) -> Image.Image:
    """An image file as an upright RGB picture, whatever its mode.

    Grey, palette and CMYK pictures are converted, transparency is laid over white, EXIF rotation
    is applied; `as_rgb` says what becomes of 16-bit and float pictures. A JPEG of more than 25
    million pixels comes at half its width and height. shown: see as_rgb.
    Raises UnreadableImage, a ValueError, naming the file if it is missing, not a file, not in one
    of FORMATS, unreadable, cut short, animated, or too large (100 million pixels, or 600 MB of
    memory).
    """
    name = name or (str(source) if not isinstance(source, bytes) else "image")
    return to_rgb(read_picture(source, name), name, shown)


def read_picture(source: str | Path | bytes, name: str) -> Image.Image:
    """A single picture as its file has it, decoded and upright; raises as open_image does."""
    try:
        with open_file(source, name) as stream, \
                Image.open(stream, formats=known_formats()) as picture:
            _refuse_animation(picture, name)
            refuse_size(picture, name)
            if picture.width * picture.height > _MANY_PIXELS:
                picture.draft(None, (picture.width // 2, picture.height // 2))      # JPEG only
            deep_colour = _has_deep_colour(picture, stream)
            picture.load()
            if deep_colour:
                _refuse_dark(picture, name)
            return _upright(picture)
    except UnreadableImage:
        raise
    except UnidentifiedImageError as error:
        raise UnreadableImage(f"{name}: {_why_not_known(source)}") from error
    except Image.DecompressionBombError as error:
        raise UnreadableImage(f"{name}: {error}: save it smaller") from error
    except Exception as error:      # Pillow's readers raise what they like for a broken file
        raise UnreadableImage(f"{name}: is damaged or cut short, or a kind of picture that cannot "
                              f"be read ({type(error).__name__}: {error}): save it again, as JPEG "
                              "or PNG") from error


def as_rgb(picture: Image.Image, name: str = "image",
           shown: tuple[float, float] | None = None) -> Image.Image:
    """A PIL image of any mode as upright RGB.

    16-bit and float pictures are scaled: `shown` gives the values that become black and white, by
    default the range that the file names, else one that fits the values (`depth`); a warning says
    what was taken. Raises UnreadableImage for an animation, and if no range is known to fit.
    """
    _refuse_animation(picture, name)
    return to_rgb(_upright(picture), name, shown)


def to_rgb(picture: Image.Image, name: str, shown: tuple[float, float] | None) -> Image.Image:
    """as_rgb for a picture that is known to be single and upright, as read_picture returns it."""
    if picture.mode == "RGB" and not picture.has_transparency_data:
        return picture
    if is_deep(picture):
        picture = to_eight_bits(picture, *(shown or _guess_range(picture, name)))
    if picture.has_transparency_data:
        picture = picture if picture.mode == "RGBA" else picture.convert("RGBA")
        white = Image.new("RGB", picture.size, "white")
        white.paste(picture, mask=picture)
        return white
    try:
        return picture.convert("RGB")
    except ValueError as error:
        raise UnreadableImage(f"{name}: is in colours that cannot be read ({error}): save it as "
                              "RGB") from error


def say_range(name: str, depth: Depth, shown: tuple[float, float]) -> None:
    """Warn how the values of a deep picture become shades; not for 16 whole bits, nor for black."""
    if depth.high != 0 and (depth.said is not None or shown != (0.0, 65535.0)):
        by = "as the file says" if depth.said is not None else "a guess from its values"
        warnings.warn(f"{name}: its values go from {depth.low:g} to {depth.high:g}; {shown[0]:g} "
                      f"is shown as black and {shown[1]:g} as white ({by})", stacklevel=3)


def range_of(depth: Depth, name: str) -> tuple[float, float]:
    """What to show as black and white. Raises UnreadableImage naming what cannot be shown."""
    try:
        return black_and_white(depth)
    except ValueError as error:
        raise UnreadableImage(f"{name}: {error}") from error


def open_file(source: str | Path | bytes, name: str) -> IO[bytes]:
    """The file, opened; a pipe or a device, which may never end, is not."""
    if isinstance(source, bytes):
        return io.BytesIO(source)
    size = check_file(source, name)
    if size > MAX_BYTES:
        raise UnreadableImage(f"{name}: is a file of {size / 1e6:.0f} MB, more than the "
                              f"{MAX_BYTES / 1e6:.0f} that are read: save it smaller")
    try:
        return open(source, "rb")
    except OSError as error:
        raise UnreadableImage(f"{name}: cannot be opened ({error.strerror})") from error


def check_file(path: str | Path, name: str) -> int:
    """The size of a file in bytes. Raises UnreadableImage if it is missing, or not a file."""
    try:
        state = os.stat(path)
    except OSError as error:
        raise UnreadableImage(f"{name}: cannot be opened ({error.strerror})") from error
    if stat.S_ISDIR(state.st_mode):
        raise UnreadableImage(f"{name}: cannot be opened (it is a folder)")
    if not stat.S_ISREG(state.st_mode):
        raise UnreadableImage(f"{name}: cannot be opened (it is a pipe, a socket or a device, not "
                              "a file)")
    return state.st_size


def _guess_range(picture: Image.Image, name: str) -> tuple[float, float]:
    depth = measure(picture)
    shown = range_of(depth, name)
    say_range(name, depth, shown)
    return shown


def _upright(picture: Image.Image) -> Image.Image:
    turned = picture.getexif().get(ExifTags.Base.Orientation, 1) != 1
    return ImageOps.exif_transpose(picture) if turned else picture


def known_formats() -> list[str]:
    """Those of FORMATS that this Pillow has a reader for."""
    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]


def _why_not_known(source: str | Path | bytes) -> str:
    """Why no reader takes a file, as far as its first bytes tell."""
    if isinstance(source, bytes):
        start = source[:16]
    else:
        with open(source, "rb") as file:
            start = file.read(16)
    if not start:
        return "is an empty file, of 0 bytes: copy or save it again"
    if start[4:8] == b"ftyp":
        kind = "AVIF" if start[8:12] in (b"avif", b"avis") else "HEIC or another kind of MP4"
        return f"is {kind}, which this Pillow cannot read: save it as JPEG or PNG"
    if start[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return ("is a TIFF that cannot be read (damaged, or of a kind Pillow does not know, as "
                "with many bands): save three of its bands as RGB, or one as grey")
    return ("is not an image that can be read (JPEG, PNG, WebP, BMP, TIFF, GIF or AVIF), whatever "
            "its name says")


def _refuse_animation(picture: Image.Image, name: str) -> None:
    # A multi-picture JPEG (MPO), as some cameras write it, is one photograph with a preview.
    if not getattr(picture, "is_animated", False) or picture.format == "MPO":
        return
    frames = _pages(picture) if picture.format == "TIFF" else picture.n_frames
    if frames > 1:
        raise UnreadableImage(f"{name}: is an animation of {frames} frames: save the frames you "
                              "mean as single images, in a folder of their own for a sequence")


def _pages(picture: Image.Image) -> int:
    """Pages of a TIFF that are pictures of their own: not overviews of another, nor masks."""
    pages = 1
    try:
        for number in range(1, picture.n_frames):
            picture.seek(number)
            pages += not picture.tag_v2.get(254, 0) & 0b101         # the tag NewSubfileType
    finally:
        picture.seek(0)
    return pages


def refuse_size(picture: Image.Image, name: str) -> None:
    """Raise UnreadableImage if a picture would take too much memory."""
    width, height = picture.size
    if width * height > MAX_PIXELS:
        raise UnreadableImage(f"{name}: is {width} x {height} pixels, more than the "
                              f"{MAX_PIXELS // 1_000_000} million that are read: save it smaller")
    memory = width * height * _bytes_per_pixel(picture)
    if memory > MAX_BYTES:
        raise UnreadableImage(
            f"{name}: is {width} x {height} pixels ({picture.format}, {picture.mode}) and would "
            f"take {memory / 1e6:.0f} MB of memory, more than the {MAX_BYTES / 1e6:.0f} that are "
            "allowed: save it smaller")


def _bytes_per_pixel(picture: Image.Image) -> int:
    """Peak memory for each pixel while a picture is decoded and becomes RGB, as measured."""
    if picture.format in ("JPEG", "MPO"):       # at half the width; passes keep coefficients
        return 8 if picture.info.get("progressive") else 2
    if picture.format == "WEBP":
        return 17
    if picture.format in ("AVIF", "HEIF"):
        return 10
    return 7 if picture.mode == "RGB" else 9


def _has_deep_colour(picture: Image.Image, stream: IO[bytes]) -> bool:
    """Has the file 16 bits for each colour? Pillow keeps the upper 8 of them."""
    if is_deep(picture):
        return False
    if picture.format == "PNG":
        place = stream.tell()
        stream.seek(24)                         # the depth, in the header
        depth = stream.read(1)
        stream.seek(place)
        return depth == b"\x10"
    bits = picture.tag_v2.get(258, (8,)) if picture.format == "TIFF" else (8,)
    return max(bits) > 8


def _refuse_dark(picture: Image.Image, name: str) -> None:
    """A picture whose upper 8 of 16 bits are hardly used would be almost black."""
    extrema = picture.getextrema()
    brightest = max(high for _, high in (extrema if isinstance(extrema[0], tuple) else [extrema]))
    bands = len(picture.getbands()) - picture.has_transparency_data
    if bands and picture.mode != "L":
        brightest = max(high for _, high in extrema[:bands])
    if 0 < brightest < _DARK:
        raise UnreadableImage(
            f"{name}: has 16 bits a colour, and its brightest value is below "
            f"{(brightest + 1) * 256} of 65536, so that it would be almost black: scale it to "
            "8 bits yourself and save it again")
