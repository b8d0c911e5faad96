"""Folders that appear as one: whole or not at all, whatever is pulled or killed meanwhile.

A folder is written beside its place and every file is brought to the disk; only then does a rename
put it there. The order matters: Pillai et al. 2014, "All file systems are not created equal". A
marker in it holds the length and the checksum of each file. While FOLDER is being written, there is
a FOLDER.unfinished beside it with a lock. Readers never move anything.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import xxhash
from filelock import FileLock, Timeout

# In a folder of ours that is being worked in. Their names mark it as ours, so they are long.
LOCK = "vlm_utils_in_progress.lock"
HOLDER = "vlm_utils_in_progress.txt"
# What file managers leave behind wherever somebody looks: nobody misses it.
_DROPPINGS = {".DS_Store", "Thumbs.db", "desktop.ini"}


class DamagedFiles(ValueError):
    """The files of a folder are not those that were written; the message names one of them."""


class FolderInUse(RuntimeError):
    """Another process, or another thread, is writing to the folder; the message names it."""


# --- the marker ----------------------------------------------------------------------------------

def seal(folder: Path, marker: str, facts: dict) -> None:
    """Bring a folder to the disk: its files, then a marker with facts and checksums, then itself.

    facts: what json can hold.
    """
    files = {name: _measure(folder / name) for name in _files(folder)}
    for name in files:
        _sync(folder / name)
    content = {"facts": facts, "files": files}
    text = json.dumps(content | {"checksum": _checksum_of(content)}, indent=2) + "\n"
    (folder / marker).write_text(text, encoding="utf-8")
    _sync(folder / marker)
    for inner in sorted(folder.rglob("*"), reverse=True):
        if inner.is_dir():
            _sync(inner)
    _sync(folder)


def read_marker(folder: Path, marker: str) -> dict | None:
    """The facts of a sealed folder; None if it has no marker. Raises DamagedFiles."""
    content = _read_content(folder, marker)
    return None if content is None else content["facts"]


def verify(folder: Path, marker: str) -> dict:
    """Read every file of a sealed folder and compare; returns the facts.

    Raises DamagedFiles naming the first file that is missing, has another length or another
    checksum.
    """
    content = _read_content(folder, marker)
    if content is None:
        raise DamagedFiles(f"{folder / marker} is missing")
    for name, expected in content["files"].items():
        path = folder / name
        if not path.is_file():
            raise DamagedFiles(f"{path} is missing")
        size = path.stat().st_size
        if size != expected["bytes"]:
            raise DamagedFiles(f"{path} has {size:,} bytes and was written with "
                               f"{expected['bytes']:,}")
        if _measure(path) != expected:
            raise DamagedFiles(f"{path} is not as it was written: its checksum differs")
    return content["facts"]


def foreign_files(folder: Path, marker: str) -> list[str]:
    """What is in a folder and not in its marker: somebody else's. All of it, without a marker."""
    content = _read_content(folder, marker)
    ours = {Path(name) for name in (marker, *content["files"])} if content else set()
    ours |= {parent for path in ours for parent in path.parents}
    found = (path.relative_to(folder) for path in sorted(folder.rglob("*")))
    return [path.as_posix() for path in found if path not in ours and path.name not in _DROPPINGS]


# --- moving --------------------------------------------------------------------------------------

def make_folder(folder: Path) -> None:
    """Make a folder and those above it; each is on the disk when this returns."""
    if folder.is_dir():
        return
    make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    _sync(folder.parent)


def move(source: Path, target: Path) -> None:
    """Rename a folder; that it was is on the disk when this returns. target must not exist."""
    if os.path.lexists(target):
        raise FileExistsError(f"{target} exists")
    for tries in range(20):
        try:
            source.rename(target)
            break
        except PermissionError:             # Windows: somebody is reading a file in it
            if os.name != "nt" or tries == 19:
                raise
            time.sleep(0.1)
    # First where it is, then where it was: a power cut in between may show it twice, never lose it.
    _sync(target.parent)
    _sync(source.parent)


def discard(folder: Path, marker: str) -> None:
    """Delete a folder of ours, its marker first, so that no half of it passes for a whole.

    What the system does not let go of (Windows, while somebody reads it) stays, without a marker.
    """
    if folder.is_symlink():
        return
    with suppress(OSError):
        (folder / marker).unlink()
    shutil.rmtree(folder, ignore_errors=True)


# --- one writer ----------------------------------------------------------------------------------

def beside(folder: Path) -> Path:
    """Where FOLDER is worked on: FOLDER.unfinished."""
    return folder.with_name(folder.name + ".unfinished")


@contextmanager
def hold(folder: Path, wait: bool = False) -> Iterator[Path]:
    """Be the only one that writes a folder: yields FOLDER.unfinished, made if it is not there.

    A thread that holds it may hold it again. The operating system lets go of the lock when the
    process ends, however it ends. With the last hold FOLDER.unfinished goes, if nothing is in it.
    wait: until another process is done, and say so. Raises FolderInUse naming the process that
    holds it, FileExistsError if FOLDER.unfinished is not ours, OSError if nothing can be written.
    """
    work = beside(folder)
    lock = FileLock(work / LOCK, is_singleton=True)
    try:
        _acquire(lock, work, wait)
        yield work
    finally:
        last = lock.lock_counter == 1
        if last and os.name != "nt":
            _leave(work)
        lock.release()
        if last and os.name == "nt":        # an open file cannot be deleted there
            _leave(work)


def is_ours(work: Path) -> bool:
    """May FOLDER.unfinished be worked in: is it missing, empty, or marked as ours?"""
    if work.is_symlink() or (work.exists() and not work.is_dir()):
        return False
    names = set(os.listdir(work)) if work.exists() else set()
    return not names or bool(names & {LOCK, HOLDER})


def holder(work: Path) -> str:
    """Who holds a folder, as far as it has written that down."""
    try:
        lines = (work / HOLDER).read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    return lines[1] if len(lines) > 1 else "another process"


def _acquire(lock: FileLock, work: Path, wait: bool) -> None:
    told = False
    while True:
        make_folder(work)
        if not is_ours(work):
            raise FileExistsError(f"{work} is needed to work in, and it holds something else: move "
                                  "it away, or choose another folder")
        try:
            lock.acquire(timeout=0)
            break
        except FileNotFoundError:           # one who leaves has deleted the folder meanwhile
            continue
        except Timeout:
            if not wait:
                folder = work.with_name(work.name.removesuffix(".unfinished"))
                raise FolderInUse(f"{folder} is being written by {holder(work)}: wait until it is "
                                  "done, stop it, or choose another folder") from None
            if not told:
                print(f"waiting for {holder(work)}, which is writing {work.name}")
            told = True
            time.sleep(0.1)
    if lock.lock_counter == 1:
        (work / HOLDER).write_text(
            "Work in progress of the Python package vlm_utils, last held by\n"
            f"process {os.getpid()} ({Path(sys.argv[0] or 'python').name}) on "
            f"{socket.gethostname()}, since {time.strftime('%Y-%m-%d %H:%M:%S')}\n",
            encoding="utf-8")


def _leave(work: Path) -> None:
    """Leave nothing where nothing is kept."""
    if set(os.listdir(work)) - {LOCK, HOLDER}:
        return
    with suppress(OSError):                 # the next one has it already
        (work / LOCK).unlink()
        (work / HOLDER).unlink()
        work.rmdir()


# --- details -------------------------------------------------------------------------------------

def _files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*")
                  if path.is_file())


def _measure(path: Path) -> dict:
    """Length and checksum of a file."""
    checksum, size = xxhash.xxh3_128(), 0
    with open(path, "rb") as stream:
        while block := stream.read(1 << 20):
            checksum.update(block)
            size += len(block)
    return {"bytes": size, "xxh3_128": checksum.hexdigest()}


def _checksum_of(content: dict) -> str:
    return xxhash.xxh3_128(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _read_content(folder: Path, marker: str) -> dict | None:
    """What a marker of ours says; None if there is none, or a file of that name which is not ours.

    Raises DamagedFiles if it cannot be read or has changed.
    """
    path = folder / marker
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise DamagedFiles(f"{path} cannot be read ({error})") from None
    keys = {"facts", "files", "checksum"}
    if not isinstance(content, dict) or len(keys & content.keys()) < 2:
        return None
    checksum = content.pop("checksum", None)
    if checksum != _checksum_of(content) or not keys > content.keys():
        raise DamagedFiles(f"{path} is not as it was written: its checksum differs")
    return content


def _sync(path: Path) -> None:
    """Bring a file or the names in a folder to the disk, not to the system's memory only."""
    is_folder = path.is_dir()
    if is_folder and os.name == "nt":
        return                              # Windows cannot, and keeps its renames in order itself
    descriptor = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        if sys.platform == "darwin":        # there fsync leaves it in the memory of the drive
            import fcntl
            with suppress(OSError):         # not on every network drive; those have fsync
                fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)
        os.fsync(descriptor)
    except OSError as error:                # some network drives have it for files only
        if not is_folder or error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):
            raise
    finally:
        os.close(descriptor)
