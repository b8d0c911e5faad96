"""When a picture was taken: from a column of metadata, its name, or the camera's own note.

A date is kept as precisely as it is known, in ISO 8601: "2019-03-17", "2019-03" or "2019". What
could be two dates, such as 03-04-2019, is never guessed.
"""

from __future__ import annotations

import datetime
import re
import warnings
from dataclasses import replace
from pathlib import Path

from PIL import Image

from vlm_utils.sources import images

YEARS = range(1800, 2101)           # what a number must be in to be a year
EXPECTED = "write it as 2019-03-17, 2019-03 or 2019"
_DATE = re.compile(r"(\d{4})(?:-(\d{1,2})(?:-(\d{1,2})(?:[T ].*)?)?)?")
_DAY = re.compile(r"(?<!\d)(\d{4})([-_.]?)(\d{2})\2(\d{2})(?!\d)")
_MONTH = re.compile(r"(?<!\d)(\d{4})([-_.])(\d{2})(?!\d|\2\d)")
_DAY_OR_MONTH_FIRST = re.compile(r"(?<!\d)\d{1,2}([-_.])\d{1,2}\1\d{4}(?!\d)")
_CAMERA = re.compile(r"(\d{4}):(\d{2}):(\d{2})( .*)?")      # 2019:03:17 10:20:30
_EXIF, _TAKEN = 0x8769, 36867       # the block of a camera's notes; DateTimeOriginal in it


def parse_date(value: object, where: str) -> str | None:
    """A value of a column `date` in ISO 8601; None if the cell is empty.

    A text may also hold a time of day, which is left out. Raises ValueError naming the row if it
    is not a date, or could be two.
    """
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    if isinstance(value, datetime.date):        # a datetime is one too
        return value.strftime("%Y-%m-%d")
    text = str(value).strip() if isinstance(value, str | int) else ""
    found = _DATE.fullmatch(text) or re.fullmatch(r"(\d{4})(\d{2})(\d{2})", text)
    date = _iso(*found.groups()) if found else None
    if date is None:
        raise ValueError(f"{where}: date is {value!r}, which is not a date that can be read, or "
                         f"could be several: {EXPECTED}")
    return date


def date_in_name(name: str) -> str | None:
    """The date in a file's name, as in airport_2019_03_17.tif or 2019-03.png; None if it has none.

    Four digits alone are no year: a camera numbers its pictures so. Raises ValueError if the name
    could mean several dates, or holds two different ones.
    """
    stem = Path(name).stem
    days = {date for found in _DAY.finditer(stem)
            if (date := _iso(found[1], found[3], found[4])) is not None}
    unclear = _DAY_OR_MONTH_FIRST.search(stem)
    if unclear is not None and not days:
        raise ValueError(f"{unclear[0]} could start with the day or the month: "
                         f"name it year first, as 2019-03-17")
    found = days or {date for found in _MONTH.finditer(stem)
                     if (date := _iso(found[1], found[3])) is not None}
    if len(found) > 1:
        raise ValueError(f"holds the dates {' and '.join(sorted(found))}: leave one of them")
    return found.pop() if found else None


def date_of_camera(path: Path) -> str | None:
    """The day in a picture's EXIF note DateTimeOriginal; None if it has none that can be read."""
    try:
        with images.open_file(path, str(path)) as stream, \
                Image.open(stream, formats=images.known_formats()) as picture:
            value = picture.getexif().get_ifd(_EXIF).get(_TAKEN)
    except Exception:               # a broken picture is refused when it is opened, by its name
        return None
    found = _CAMERA.fullmatch(value.strip("\0 ")) if isinstance(value, str) else None
    return _iso(*found.groups()[:3]) if found else None


def in_time(folder: str | Path, pictures: list) -> list:
    """The pictures of a folder with their dates, frames without captions in the order of these.

    pictures: as `picture_folders` lists them, with the dates of the metadata. The others are those
    of the files' names, and of the camera's note if they are frames. Frames are moved only if each
    has a date, all are as precise, and they are not yet in order; a warning then says so. Another
    one names the frames that have no date among others that do, and says why.
    """
    dated, refused = [], []
    are_frames = not any(picture.captions or picture.clip for picture in pictures)
    for picture in pictures:
        date = picture.date
        try:
            if date is None and picture.clip is None:
                date = date_in_name(picture.file.name) or (
                    date_of_camera(picture.file) if are_frames else None)
        except ValueError as error:
            refused.append(f"{picture.file.name} ({error})")
        dated.append(replace(picture, date=date))
    if not are_frames:
        return dated
    missing = [picture.file.name for picture in dated if picture.date is None]
    if refused or 0 < len(missing) < len(dated):
        named = refused + [name for name in missing
                           if not any(text.startswith(f"{name} (") for text in refused)]
        warnings.warn(f"{folder}: {len(missing)} of {len(dated)} frames have no date: "
                      f"{'; '.join(named[:5])}{' ...' if len(named) > 5 else ''}", stacklevel=3)
    return _sorted_by_date(folder, dated)


def _sorted_by_date(folder: str | Path, frames: list) -> list:
    known = [frame.date for frame in frames if frame.date is not None]
    shared = min(map(len, known), default=0)            # letters: as precise as the least precise
    if all(a[:shared] <= b[:shared] for a, b in zip(known, known[1:], strict=False)):
        return frames
    if len(known) < len(frames) or max(map(len, known)) > shared:
        warnings.warn(f"{folder}: the frames are in the order of their names, and that is not the "
                      "order of their dates: give each a date, and all as precisely",
                      stacklevel=4)
        return frames
    warnings.warn(f"{folder}: the frames are put in the order of their dates, which is not that "
                  "of their names", stacklevel=4)
    return sorted(frames, key=lambda frame: frame.date)


def _iso(year: str, month: str | None = None, day: str | None = None) -> str | None:
    """The date in ISO 8601, or None if the calendar has no such day."""
    try:
        date = datetime.date(int(year), int(month or 1), int(day or 1))
    except ValueError:
        return None
    if date.year not in YEARS:
        return None
    return f"{date:%Y-%m-%d}"[:10 if day else 7 if month else 4]
