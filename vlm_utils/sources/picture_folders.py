"""A folder of the user's own pictures: which files, in which order, with which captions.

Four layouts are read, as `imagefolder` of `datasets` has them: a metadata file with captions;
class folders (forest/1.jpg: the caption is "forest"); train/, validation/ and test/ with either in
them; and plain files, which are frames in the order in which people count. A clip, or a folder of
clips, stands for the frames of each: a clip is a place that is seen several times.
"""

from __future__ import annotations

import hashlib
import io
import re
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from datasets import Dataset
from datasets import Image as ImageFeature
from PIL import Image

from vlm_utils.sources import clips, images
from vlm_utils.sources.beside import (
    EXPECTED,
    OF_SYSTEMS,
    find_inside,
    refuse_unread,
    utf8_name,
)
from vlm_utils.sources.dates import in_time
from vlm_utils.sources.depth import Depth, is_deep, join, measure
from vlm_utils.sources.metadata import NAMES, SPLITS, metadata_files, read_metadata

THUMBNAIL = 8                       # pixels on a side: what two pictures are compared by


@dataclass(frozen=True)
class Picture:
    """A picture of a folder: its captions, its split if the folder has splits, and where it is
    named, for errors.

    date: when it was taken, in ISO 8601, as precise as it is known, or None. Of a frame of a clip:
    the clip, the time at which the frame appears, in seconds, and the file in which it is stored.
    """

    file: Path
    where: str
    captions: tuple[str, ...] = ()
    split: str | None = None
    date: str | None = None
    clip: Path | None = None
    time: float | None = None
    stored: Path | None = None

    @property
    def source(self) -> Path:
        """The file to open."""
        return self.stored or self.file


@dataclass(frozen=True)
class Content:
    """What is known of a file's content: its SHA-256, a thumbnail's values, its depth if deep."""

    digest: str
    thumbnail: bytes
    depth: Depth | None


_known: dict[str, tuple[bytes, Depth | None]] = {}      # by digest: a content is decoded once


def list_pictures(folder: str | Path) -> list[Picture]:
    """The pictures of a folder, each once, with all its captions, and its date if that is known.

    folder: or a clip, as clip.mp4. No picture is opened, but for the camera's note of the date in
    frames. Frames without captions of which all have a date are in the order of their dates.
    Raises ValueError naming the folder, or the file and row, that cannot be used.
    """
    return in_time(folder, _list(Path(folder)))


def _list(folder: Path) -> list[Picture]:
    if not folder.is_dir():
        if clips.clips_among([folder]):
            return _frames_of([folder])
        raise ValueError(f"{folder}: is neither a folder of pictures nor a clip "
                         f"({', '.join(sorted(clips.SUFFIXES))}, or an animated GIF, WebP or PNG)")
    has_metadata = bool(metadata_files(folder))
    inside = [child for child in _folders_in(folder)
              if _visible_files(child) or _folders_in(child)]
    # A folder "train" beside folders of other names is a class: that of trains.
    others = [child.name for child in inside if child.name.lower() not in SPLITS]
    if not inside or has_metadata or _clips_in(folder) or _files_in(folder):
        return _list_one(folder)
    if others:
        if len(others) < len(inside):
            warnings.warn(f"{folder}: all its folders are read as classes, because {others[0]} is "
                          "not called train, validation or test", stacklevel=3)
        return _list_one(folder)
    found = [replace(picture, split=SPLITS[child.name.lower()])
             for child in inside for picture in _list_one(child)]
    bare = [picture for picture in found if not picture.captions]
    if bare and len(bare) < len(found):
        raise ValueError(f"{bare[0].file.parent}: has pictures without captions, other parts of "
                         f"{folder} have captions: give all of them captions, or none")
    return found


def load_image_folder(folder: str | Path) -> Dataset:
    """A folder as a Dataset with the columns image, caption_0 ..., and split if it has splits.

    Raises ValueError naming the file, line or row that is wrong; every image is opened once to
    see. Without captions the images are in the order of their names, as frames in time.
    """
    pictures = list_pictures(folder)
    return as_dataset(folder, pictures, examine(pictures)).cast_column("image", ImageFeature())


def sites_of(pictures: Sequence[Picture]) -> list[tuple[int, ...]]:
    """Rows that show the same place, in order of time: those of each clip, or all other frames."""
    rows: dict[Path | None, list[int]] = {}
    for row, picture in enumerate(pictures):
        rows.setdefault(picture.clip, []).append(row)
    return [tuple(of_site) for of_site in rows.values()]


def examine(pictures: Iterable[Picture]) -> list[Content]:
    """Open every picture once. Raises ValueError naming the first that cannot be read."""
    return [_examine(picture.source) for picture in pictures]


def as_dataset(folder: str | Path, pictures: list[Picture], contents: list[Content]) -> Dataset:
    """Pictures as a Dataset whose images are not decoded ({"path": ..., "bytes": ...}).

    Its fingerprint is made of the contents: what is computed from these images is found again for
    the same files, wherever they lie, and never for others. Pictures of more than 8 bits are
    scaled here, all of a kind alike, so that frames stay comparable; a warning says how.
    """
    shown = _shown_ranges(folder, pictures, contents)
    most = max(len(picture.captions) for picture in pictures)
    known = [name for name in ("date", "time")
             if any(getattr(picture, name) is not None for picture in pictures)]
    rows = []
    for picture, scale in zip(pictures, shown, strict=True):
        row = {"image": {"path": str(picture.source),
                         "bytes": None if scale is None else _scaled(picture.source, scale)}}
        for k in range(most):
            row[f"caption_{k}"] = picture.captions[k] if k < len(picture.captions) else None
        if picture.split is not None:
            row["split"] = picture.split
        rows.append(row | {name: getattr(picture, name) for name in known})
    dataset = Dataset.from_list(rows)
    said = [(content.digest, picture.captions, picture.split, scale)
            for content, picture, scale in zip(contents, pictures, shown, strict=True)]
    dataset._fingerprint = hashlib.sha256(repr(said).encode()).hexdigest()[:16]
    return dataset.cast_column("image", ImageFeature(decode=False))


def _list_one(folder: Path) -> list[Picture]:
    """The pictures of a folder, or of one of its splits."""
    entries = read_metadata(folder)
    found = _clips_in(folder) if entries is None else []
    if found:
        return _frames_of(found)
    files, inside = _files_in(folder), _folders_in(folder)
    if entries is not None:
        return _named_by(entries, folder, files)
    if files:
        refuse_unread(folder, files)
        deeper = [child.name for child in inside if _files_in(child)]
        if deeper:
            warnings.warn(f"{folder}: holds pictures beside folders of pictures "
                          f"({', '.join(deeper)}), which are not read", stacklevel=2)
        return [Picture(file, str(file)) for file in files]
    classes = []
    for child in inside:
        below = _first_folder_below(child, {folder.resolve(), child.resolve()})
        if below is not None:
            raise ValueError(f"{below}: holds pictures two levels below {folder}, or deeper: put "
                             "the pictures of each class directly into its folder")
        of_class = _files_in(child)
        others = _other_names(child)
        if others and not of_class:
            warnings.warn(f"{child}: holds no picture that is read, and is left out as a class: "
                          f"{_some(others)}", stacklevel=2)
        refuse_unread(child, of_class)
        classes += [Picture(file, str(file), (utf8_name(child, "a caption"),))
                    for file in of_class]
    if not classes:
        raise ValueError(f"{folder}: holds no image ({', '.join(sorted(images.SUFFIXES))}), nor "
                         f"folders of images, nor clips ({', '.join(sorted(clips.SUFFIXES))})")
    refuse_unread(folder, [picture.file for picture in classes])
    return classes


def _named_by(entries, folder: Path, files: list[Path]) -> list[Picture]:
    """The pictures that the rows of a metadata file name; rows of the same picture are joined."""
    found: dict[Path, Picture] = {}
    has_captions = any(entry.captions for entry in entries)
    for entry in entries:
        file = find_inside(folder, entry.file_name, entry.where)
        if file.suffix.lower() in clips.SUFFIXES:
            raise ValueError(f"{entry.where}: {entry.file_name} is a clip: metadata is read of "
                             "pictures only; put clips into a folder without it")
        if has_captions and not entry.captions:
            raise ValueError(f"{entry.where}: {entry.file_name} has no caption, others have: "
                             "write one, or leave the row out")
        top, slash, _ = entry.file_name.replace("\\", "/").partition("/")
        split = entry.split or (SPLITS.get(top.lower()) if slash else None)
        same = found.get(file)
        if same is None:
            found[file] = Picture(file, entry.where, tuple(dict.fromkeys(entry.captions)), split,
                                  entry.date)
            continue
        if same.split != split:
            raise ValueError(f"{entry.where}: {entry.file_name} is in {split}, and in "
                             f"{same.split} by {same.where}: a picture belongs to one split")
        if None not in (same.date, entry.date) and same.date != entry.date:
            raise ValueError(f"{entry.where}: {entry.file_name} is of {entry.date}, and of "
                             f"{same.date} by {same.where}: a picture has one date")
        captions = tuple(dict.fromkeys(same.captions + entry.captions))
        found[file] = replace(same, captions=captions, date=same.date or entry.date)
    unsplit = [picture for picture in found.values() if picture.split is None]
    if unsplit and len(unsplit) < len(found):
        raise ValueError(f"{unsplit[0].where}: has no split, others have: give one to each, or "
                         "to none")
    unnamed = [file.name for file in files if file.resolve() not in found]
    if unnamed:
        warnings.warn(f"{folder}: {len(unnamed)} pictures are not named in the metadata and are "
                      f"left out: {_some(unnamed)}", stacklevel=2)
    return list(found.values())


def _frames_of(found: list[Path]) -> list[Picture]:
    """The frames of clips, one clip after the other. A frame's name is its clip and its time."""
    return [Picture(clip / f"{time:.2f} s", f"{clip}, {time:.2f} s", clip=clip, time=time,
                    stored=stored)
            for clip in found for stored, time in clips.frames_of(clip)]


def _clips_in(folder: Path) -> list[Path]:
    return clips.clips_among(_visible_files(folder))


def _files_in(folder: Path) -> list[Path]:
    """The pictures directly in a folder, in the order in which people count.

    Hidden files, as macOS's ._a.png, do not count. Files of unknown kinds are named once.
    """
    files = _visible_files(folder)
    pictures = [file for file in files if file.suffix.lower() in images.SUFFIXES]
    for file in pictures:
        utf8_name(file, "read")
    if pictures and (others := _other_names(folder)):
        warnings.warn(f"{folder}: not read as pictures, for their names: {_some(others)}",
                      stacklevel=2)
    return pictures


def _other_names(folder: Path) -> list[str]:
    """The files of a folder that are neither pictures nor what is expected beside them."""
    return [file.name for file in _visible_files(folder)
            if file.suffix.lower() not in images.SUFFIXES | EXPECTED
            and file.stem not in ("LICENSE", "LICENCE", "README", "ATTRIBUTION")
            and file.name.lower() not in NAMES]


def _first_folder_below(folder: Path, seen: set[Path]) -> Path | None:
    """The first folder in this one, however deep, that holds pictures. seen: folders that need no
    look, to which those looked into are added: a link may lead back."""
    for child in _folders_in(folder):
        place = child.resolve()
        if place in seen:
            continue
        seen.add(place)
        found = child if _files_in(child) else _first_folder_below(child, seen)
        if found is not None:
            return found
    return None


def _visible_files(folder: Path) -> list[Path]:
    return [file for file in sorted(folder.iterdir(), key=_as_people_count)
            if not file.name.startswith(".") and not file.is_dir()]


def _folders_in(folder: Path) -> list[Path]:
    return [child for child in sorted(folder.iterdir(), key=_as_people_count)
            if child.is_dir() and not child.name.startswith((".", "__"))
            and child.name.lower() not in OF_SYSTEMS]


def _as_people_count(file: Path) -> tuple:
    """A key that sorts frame_2 before Frame_10: text and numbers in turn, whatever the case."""
    parts = re.split(r"(\d+)", file.name.casefold())
    return [int(part) if i % 2 else part for i, part in enumerate(parts)], file.name


def _some(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _examine(file: Path) -> Content:
    digest = hashlib.sha256()
    with images.open_file(file, str(file)) as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    name = digest.hexdigest()
    if name not in _known:
        _known[name] = _look_at(file)
    return Content(name, *_known[name])


def _look_at(file: Path) -> tuple[bytes, Depth | None]:
    """A picture's thumbnail and, if it is deep, its depth."""
    picture = images.read_picture(file, str(file))
    depth = measure(picture) if is_deep(picture) else None
    shown = None
    if depth is not None:           # whatever will be shown as black and white
        shown = (depth.low, depth.high) if depth.low < depth.high else (0.0, 1.0)
    small = images.to_rgb(picture, str(file), shown).resize(
        (THUMBNAIL, THUMBNAIL), Image.Resampling.BILINEAR)
    return np.asarray(small, dtype=np.uint8).tobytes(), depth


def _shown_ranges(folder, pictures: list[Picture], contents: list[Content]) -> list:
    """For each deep picture the values that are black and white, alike for all of its kind."""
    shown: list[tuple[float, float] | None] = [None] * len(pictures)
    for is_float in (False, True):
        chosen = [i for i, content in enumerate(contents)
                  if content.depth is not None and content.depth.is_float == is_float]
        if chosen:
            depth = join([contents[i].depth for i in chosen])
            files = [pictures[i].file.name for i in chosen]
            name = f"{folder}: {_some(files)}"
            scale = images.range_of(depth, name)
            images.say_range(name, depth, scale)
            for i in chosen:
                shown[i] = scale
    return shown


def _scaled(file: Path, shown: tuple[float, float]) -> bytes:
    """A deep picture with 8 bits, as PNG."""
    stream = io.BytesIO()
    images.open_image(file, shown=shown).save(stream, format="png")
    return stream.getvalue()
