"""Where the checkpoints of FOLDER lie, and how a new one takes its place.

    FOLDER/                         the last training that reached its last step
    FOLDER.unfinished/300-steps-2/  a training that goes on, or was interrupted after 300 steps
    FOLDER.3000-steps/              a longer training that FOLDER held before

A training writes to FOLDER.unfinished, and becomes FOLDER when it has reached its last step. So an
interrupted one never stands where a trained model is looked for, and at every moment, also in the
middle of the two renames, one whole checkpoint is found by its marker.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from vlm_utils.sources import folders
from vlm_utils.sources.folders import DamagedFiles, beside, discard, hold, move

MARKER = "checkpoint.json"
_PARTIAL, _REPLACED = "partial", "replaced"
_VERSION = re.compile(r"\d+-steps-\d+")
Read = TypeVar("Read")


@dataclass(frozen=True)
class Checkpoint:
    """A sealed checkpoint: its folder, and what its marker says (`new_checkpoint`)."""

    path: Path
    facts: dict

    @property
    def steps(self) -> int:
        return self.facts["steps"]

    @property
    def of(self) -> int:
        return self.facts["of"]

    @property
    def finished(self) -> bool:
        return self.steps >= self.of

    def verify(self) -> None:
        """Raise DamagedFiles naming the file that is not as it was written, and what to do."""
        with _say_what_to_do(self.path):
            folders.verify(self.path, MARKER)


def absolute(folder: str | Path) -> Path:
    """A folder as its user typed it, wherever the program goes later."""
    return Path(os.path.abspath(Path(folder).expanduser()))


def brief(path: Path) -> str:
    """A path as one would type it here, if it is near; else in full."""
    try:
        near = os.path.relpath(path)
    except ValueError:                      # another drive of Windows
        return str(path)
    return str(path) if near.count("..") > 2 else near


def find_checkpoints(folder: Path) -> list[Checkpoint]:
    """All checkpoints of FOLDER, the last that was written first. Raises DamagedFiles if the marker
    of one cannot be read."""
    found = _read(folder) + [c for path in _versions(beside(folder)) for c in _read(path)]
    # What is not there any more may have been renamed while we looked.
    return sorted(found or _read(folder), key=lambda c: c.facts["number"], reverse=True)


def find_finished(folder: Path) -> Checkpoint | None:
    """The last one that reached its last step: in FOLDER, unless a crash has kept it from there."""
    return next((c for c in find_checkpoints(folder) if c.finished), None)


def find_interrupted(folder: Path) -> Checkpoint | None:
    """The last one, if it has not reached its last step."""
    return next((c for c in find_checkpoints(folder)[:1] if not c.finished), None)


def read_unchanged(find: Callable[[], Checkpoint], read: Callable[[Checkpoint], Read]) -> Read:
    """Read one checkpoint while a training may be writing the next: all of it, or from the next.

    Raises what find or read raise, if no training was the cause.
    """
    for _ in range(20):
        found = find()
        try:
            result = read(found)
        except (OSError, ValueError):
            if find() == found:
                raise
            continue
        if find() == found:
            return result
    raise RuntimeError(f"{found.path} changes faster than it can be read")


# --- writing -------------------------------------------------------------------------------------

def check_place(folder: Path, size: int) -> None:
    """Say before a training what would keep it from saving its checkpoints of so many bytes.

    Raises ValueError if FOLDER cannot become a checkpoint (it is the folder that one works in, a
    link, a file, holds something else), OSError if the disk has too little space.
    """
    here, work = Path.cwd(), beside(folder)
    if folder == here or folder in here.parents:
        raise ValueError(f"{folder} is the folder that you work in, or above it: give a checkpoint "
                         "a folder of its own")
    for path in (folder, work):
        if path.is_symlink():
            raise ValueError(f"{path} is a link to {os.readlink(path)}: a checkpoint is moved into "
                             "place as a folder; give that folder itself, or another")
        if path.exists() and not path.is_dir():
            raise ValueError(f"{path} is a file: give a folder for the checkpoint")
    if os.path.ismount(folder):
        raise ValueError(f"{folder} is a drive of its own, which cannot be moved into place: give "
                         "a folder on it")
    foreign = folders.foreign_files(folder, MARKER)
    if foreign:
        raise ValueError(f"{folder} holds {', '.join(foreign[:3])}{' ...' * (len(foreign) > 3)}, "
                         "which no training wrote there: a checkpoint needs a folder of its own")
    if not folders.is_ours(work):
        raise ValueError(f"{work} is needed while {folder.name} is trained, and it holds something "
                         "else: move it away, or choose another folder")
    if folder.parent.suffix == work.suffix and os.listdir(folder.parent) and folders.is_ours(
            folder.parent):
        raise ValueError(f"{folder} is a checkpoint on the way: train into "
                         f"{folder.parent.with_suffix('')}")
    nearest = next(path for path in folder.parents if path.exists())
    if not nearest.is_dir():
        raise ValueError(f"{nearest} is a file: {folder} cannot be made")
    free = shutil.disk_usage(nearest).free
    if free < size:
        raise OSError(errno.ENOSPC, f"{folder} needs {size / 1e6:,.0f} MB for its checkpoints and "
                      f"the disk has {free / 1e6:,.0f} MB left: make room, or choose another "
                      "folder")


@contextmanager
def reserve(folder: Path, size: int, run: str) -> Iterator[None]:
    """Keep FOLDER for one training, from before its first step. Says what else is kept there.

    Raises what check_place and hold raise.
    """
    with _say_what_to_do(folder):
        check_place(folder, size)
    with ExitStack() as stack:
        try:
            work = stack.enter_context(hold(folder))
        except OSError as error:
            raise OSError(error.errno, f"nothing can be written beside {folder} "
                          f"({error.strerror or error}): choose another folder") from error
        _clean_up(folder, work)
        for other in find_checkpoints(folder):
            if other.path != folder and other.facts["run"] != run:
                print(f"an earlier training, {other.steps} of {other.of} steps, stays in "
                      f"{brief(other.path)} until this one has come as far")
        yield


@contextmanager
def new_checkpoint(folder: Path, facts: dict) -> Iterator[Path]:
    """An empty folder to write into: at the end of the block it is FOLDER's newest checkpoint.

    facts: steps, of (how many there are to be), run (a name), and whatever else json can hold. If
    the block fails, nothing has changed. A finished checkpoint becomes FOLDER: `_put_in_place`.
    """
    with hold(folder) as work:
        _clean_up(folder, work)
        partial = work / _PARTIAL
        partial.mkdir()
        try:
            yield partial
            earlier = find_checkpoints(folder)
            number = 1 + max((c.facts["number"] for c in earlier), default=0)
            new = Checkpoint(work / f"{facts['steps']}-steps-{number}", facts | {"number": number})
            folders.seal(partial, MARKER, new.facts)
            move(partial, new.path)
        except BaseException:
            discard(partial, MARKER)
            raise
        for other in earlier:
            if other.path != folder and _is_outdone(other, new):
                discard(other.path, MARKER)
        if new.finished:
            _put_in_place(new, folder, work)


def _is_outdone(other: Checkpoint, new: Checkpoint) -> bool:
    """Is nothing lost without it, whether it is of the same run or not?"""
    return other.steps <= new.steps and other.finished <= new.finished


def _put_in_place(new: Checkpoint, folder: Path, work: Path) -> None:
    """Make a finished checkpoint FOLDER. What stood there goes, or, if it had more steps, aside."""
    aside = work / _REPLACED
    try:
        if folder.is_symlink() or folder.exists():
            foreign = folders.foreign_files(folder, MARKER)
            if folder.is_symlink() or not folder.is_dir() or foreign:
                raise FileExistsError(f"it is not a checkpoint alone: {[*foreign, folder][0]}")
            for old in _read(folder):
                if old.steps > new.steps:
                    aside = _free_name(folder, old.steps)
                    print(f"{folder.name} held a training of {old.steps} steps, more than these "
                          f"{new.steps}: it is kept as {aside.name}")
            if aside == work / _REPLACED:
                discard(aside, MARKER)
            move(folder, aside)
        move(new.path, folder)
    except (OSError, DamagedFiles) as error:    # on Windows also if somebody is reading it
        warnings.warn(f"the finished checkpoint stays in {new.path}: {folder} cannot be replaced "
                      f"({error})", stacklevel=2)
    else:
        discard(work / _REPLACED, MARKER)


def _clean_up(folder: Path, work: Path) -> None:
    """What a crash left: half a checkpoint, or a finished one on its way to FOLDER."""
    discard(work / _PARTIAL, MARKER)
    found = find_checkpoints(folder)
    for path in set(_versions(work)) - {c.path for c in found}:
        discard(path, MARKER)               # it was being deleted
    newest = next((c for c in found if c.finished), None)
    if newest is not None and newest.path != folder:
        _put_in_place(newest, folder, work)
    if newest is None and (work / _REPLACED).exists() and not folder.exists():
        move(work / _REPLACED, folder)
    if newest is None or newest.path == folder:
        discard(work / _REPLACED, MARKER)


def _free_name(folder: Path, steps: int) -> Path:
    for n in range(1, 1000):
        path = folder.with_name(f"{folder.name}.{steps}-steps{f'-{n}' * (n > 1)}")
        if not os.path.lexists(path):
            return path
    raise FileExistsError(f"{path} and those before it exist")


def _versions(work: Path) -> list[Path]:
    """Folders in FOLDER.unfinished that have the name of a checkpoint."""
    try:
        return [path for path in sorted(work.iterdir())
                if _VERSION.fullmatch(path.name) and path.is_dir()]
    except (FileNotFoundError, NotADirectoryError):
        return []


def _read(path: Path) -> list[Checkpoint]:
    """The checkpoint that a folder holds, or none."""
    with _say_what_to_do(path):
        facts = folders.read_marker(path, MARKER)
    return [] if facts is None else [Checkpoint(path, facts)]


@contextmanager
def _say_what_to_do(folder: Path) -> Iterator[None]:
    try:
        yield
    except DamagedFiles as error:
        if "train again" in str(error):
            raise
        raise DamagedFiles(f"{error}. The checkpoint in {folder} is damaged: take another one, or "
                           "move it away and train again") from None
