"""Clips of the user's: their frames are read once and kept beside what the lessons write.

Nothing is ever written into the folder that holds the clips.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

import xxhash

from vlm_utils.profiles import output_folder
from vlm_utils.sources import folders, images, video
from vlm_utils.sources.animations import is_animated
from vlm_utils.sources.frames import iterate_frames

SUFFIXES = video.SUFFIXES | {".apng"}
MAY_BE_ANIMATED = {".gif", ".webp", ".png"}
FRAMES = 16                         # of a clip: as many as the largest samples have images
LONGEST = 1024                      # pixels of a side: more than any encoder here sees
_MARKER = "frames.json"


def frames_of(clip: Path) -> list[tuple[Path, float]]:
    """Up to 16 frames of a clip, evenly spread over its time: their files, and when they appear.

    They are read once and kept in frames/ in output_folder(), under a name made of the clip's
    content: another content is read again, the same one elsewhere is found again. Times are in
    seconds. Warns, and raises UnreadableImage naming the clip, as `read_frames` does.
    """
    name = f"{_checksum(clip)}_{FRAMES}_{LONGEST}"
    folder = (output_folder() / "frames" / name).absolute()
    facts = _facts(folder)
    if facts is None:
        with folders.hold(folder, wait=True) as work:
            facts = _facts(folder)              # another process may have read it
            if facts is None:
                folders.discard(folder, _MARKER)
                folders.discard(work / name, _MARKER)
                folders.make_folder(work / name)
                facts = _read(clip, work / name)
                folders.seal(work / name, _MARKER, facts)
                folders.move(work / name, folder)
    for text in facts["said"]:
        warnings.warn(f"{clip}: {text}", stacklevel=2)
    return [(folder / _file(k), time) for k, time in enumerate(facts["times"])]


def clips_among(files: Sequence[Path]) -> list[Path]:
    """The clips of a folder whose files these are; none if it is a folder of pictures.

    Videos are clips, and so are pictures if the first of them is animated. Raises ValueError
    naming a picture that stands still among them.
    """
    pictures = [file for file in files if file.suffix.lower() in images.SUFFIXES]
    if pictures and not _is_animated(pictures[0]):
        return []
    for picture in pictures:
        if not _is_animated(picture):
            raise ValueError(f"{picture}: is a single picture among clips: keep pictures and "
                             "clips in folders of their own")
    return [file for file in files
            if file in pictures or file.suffix.lower() in SUFFIXES]


def _is_animated(file: Path) -> bool:
    return file.suffix.lower() in MAY_BE_ANIMATED and is_animated(file)


def _read(clip: Path, folder: Path) -> dict:
    """Write the frames of a clip into a folder; returns their times and what was said of them."""
    times = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for k, (frame, time) in enumerate(iterate_frames(clip, FRAMES, longest=LONGEST)):
            frame.save(folder / _file(k), compress_level=1)
            times.append(time)
    said = [str(warning.message).removeprefix(f"{clip}: ") for warning in caught
            if warning.category is UserWarning]
    return {"times": times, "said": said}


def _facts(folder: Path) -> dict | None:
    """The times of frames that are there as they were written; None if they are not."""
    if not folder.exists():
        return None
    try:
        return folders.verify(folder, _MARKER)
    except folders.DamagedFiles:
        return None


def _file(k: int) -> str:
    return f"{k:02d}.png"


def _checksum(path: Path) -> str:
    checksum = xxhash.xxh3_128()
    with open(path, "rb") as stream:
        while block := stream.read(1 << 20):
            checksum.update(block)
    return checksum.hexdigest()
