"""What lies in a folder beside the pictures, and the files that a metadata file names."""

from __future__ import annotations

import re
import unicodedata
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

# Beside pictures these are expected, and left aside without a word.
EXPECTED = {".md", ".txt", ".json", ".jsonl", ".ndjson", ".csv", ".tsv", ".xml", ".html", ".yml",
            ".yaml", ".tfw", ".jgw", ".pgw", ".wld", ".prj", ".ini", ".db", ".py", ".ipynb"}
# Folders that systems make wherever pictures are: thumbnails, bins.
OF_SYSTEMS = {"@eadir", "#recycle", "$recycle.bin", "system volume information", "lost+found"}
TABLES = {".csv", ".tsv", ".json", ".jsonl", ".ndjson"}
_READ = 1_000_000                   # bytes of a file that are searched for names of pictures,
_ASKED = 50                         # and so many of the names
_WORD = re.compile(r"[^\W\d_]{2,}")  # numbers alone are the boxes of a detector
_REMEDY = ("captions are read from metadata.csv, .jsonl or .parquet beside the pictures or above "
           "them, with the columns file_name and caption: write them there, or move the {what} out "
           "of the folder if they are no captions")


def refuse_unread(folder: Path, pictures: Sequence[Path]) -> None:
    """Refuse a folder whose captions would be dropped: those in files that are not read.

    pictures: of the folder or below it. Raises ValueError if a table (captions.csv,
    annotations.json) names them, or if texts with words lie beside most of them (1.txt beside
    1.png). A list of names in another text is only warned about: it may be a list of checksums.
    """
    names = {picture.name for picture in pictures[:_ASKED]}
    if not names:
        return
    for file in sorted(folder.iterdir()):
        if file.name.startswith(".") or not file.is_file():
            continue
        kind = file.suffix.lower()
        if file.stem.lower() == "metadata" and kind in TABLES | {".parquet"}:
            raise ValueError(f"{file}: is not a metadata file that is read: "
                             + _REMEDY.format(what="file"))
        if kind in TABLES and _names_of(file, names):
            raise ValueError(f"{file}: names pictures of its folder and is not read: "
                             + _REMEDY.format(what="file"))
    texts = [text for text in _texts_beside(pictures) if _WORD.search(_start_of(text))]
    if texts and 2 * len(texts) >= len(pictures):
        raise ValueError(f"{texts[0]}: texts beside pictures are not read, {len(texts)} of them "
                         "here: " + _REMEDY.format(what="texts"))
    lists = [file.name for file in sorted(folder.glob("*.txt")) if file not in texts
             and not file.name.upper().startswith(("README", "LICEN", "ATTRIBUTION", "CREDIT"))
             and _names_of(file, names)]
    if lists:
        warnings.warn(f"{folder}: names pictures in {', '.join(lists)}, which is not read",
                      stacklevel=3)


def _texts_beside(pictures: Sequence[Path]) -> list[Path]:
    found = (picture.with_suffix(suffix) for picture in pictures for suffix in (".txt", ".caption"))
    return [text for text in found if text.is_file()]


def _names_of(file: Path, names: set[str]) -> bool:
    """Does a text name more than one of the pictures (or the only one)?"""
    text = _start_of(file)
    return sum(name in text for name in names) >= min(2, len(names))


def _start_of(file: Path) -> str:
    with file.open("rb") as stream:
        data = stream.read(_READ)
    return data.decode("utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8", "replace")


def find_inside(folder: Path, name: str, where: str) -> Path:
    """The file of that name, which must lie in the folder, also behind all its links.

    A name that Windows wrote (train\\1.png) and one whose accents are composed in another way than
    the disk has them (macOS) are found too. Raises ValueError with `where` for all others.
    """
    for spelling in _spellings(name):
        file = _resolve(folder, spelling, where)
        if file.exists():
            return file
    alike = [other.name for other in _beside(folder / name.strip())
             if other.name.casefold() == Path(name.strip()).name.casefold()]
    hint = f"; there is {alike[0]}: large and small letters, or spaces, differ" if alike else ""
    raise ValueError(f"{where}: names {name}, which is not in {folder}{hint}")


def _spellings(name: str) -> Iterator[str]:
    for slashes in dict.fromkeys((name, name.replace("\\", "/"))):
        yield from dict.fromkeys((slashes, *(unicodedata.normalize(form, slashes)
                                             for form in ("NFC", "NFD"))))


def _resolve(folder: Path, name: str, where: str) -> Path:
    try:
        file, top = (folder / name).resolve(), folder.resolve()
        file.exists()
    except (OSError, ValueError, RuntimeError) as error:    # too long, a null byte, links in a ring
        raise ValueError(f"{where}: {name[:80]!r} is not the name of a file ({error})") from error
    if not file.is_relative_to(top) or Path(name).is_absolute():
        raise ValueError(f"{where}: {name} leads out of {folder}: name files of the folder, "
                         "relative to it")
    return file


def _beside(file: Path) -> list[Path]:
    return list(file.parent.iterdir()) if file.parent.is_dir() else []


def utf8_name(path: Path, what: str) -> str:
    """The name of a file or folder. Raises ValueError if it is not UTF-8; what: why that counts."""
    try:
        path.name.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{str(path)!r}: its name is not UTF-8 and cannot be {what}: "
                         "rename it") from None
    return path.name
