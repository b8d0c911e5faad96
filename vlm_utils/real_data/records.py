"""What the readers of public formats share: rows become samples, and nothing is lost silently.

A reader opens the official file, makes a `Row` of each entry that can be used and a note of each
that cannot, or not as it stands. `Reading.finish` turns the rows into the course's samples.
"""

from __future__ import annotations

import io
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from numbers import Integral
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from vlm_utils.architecture import as_text
from vlm_utils.datasets import ImageTable, TaskDataset, own_samples
from vlm_utils.datasets.truth import Truth
from vlm_utils.sources.metadata import read_lines, read_text

# What can happen to an entry of a file, in the order of a report.
WHATS = ("images missing", "images unreadable", "empty", "merged", "mended", "left out", "dropped")
_ELSE = "is there and holds something else: write to another folder"


@dataclass(frozen=True)
class Row:
    """A sample to be. images: files, or PIL images. name: its identifier in the file. where: file
    and row, for notes. details: what scores need besides. captions: all of its one image. dates:
    of its images."""

    images: Sequence[Path | Image.Image]
    prompt: str
    answer: str | None
    task: str
    name: str
    where: str
    details: Mapping = field(default_factory=dict)
    captions: Sequence[str] = ()
    dates: Sequence[str] = ()


@dataclass(eq=False)
class RealData:
    """A public data set, or a part of it, as the course's samples.

    samples: what `train`, `predict` and `evaluate` take. rows: a table with one row per sample, in
    the same order: its name in the file, where it stands, and what the format's scores need.
    notes: whatever was not taken as it stands (what, name, where, why, count).
    """

    name: str
    samples: TaskDataset
    rows: pd.DataFrame
    notes: pd.DataFrame
    read: int

    def __len__(self) -> int:
        return len(self.samples)

    def report(self, most: int = 2) -> pd.DataFrame:
        """How many rows the file has, how many samples they became, and what befell the others.

        Columns: what, count, named: the first `most` of them by name with the reason. Every row of
        the file is a sample, or is merged, left out or dropped; `notes` has all of them.
        """
        table = [{"what": "rows", "count": self.read, "named": self.name}]
        for what in WHATS:
            group = self.notes[self.notes["what"] == what]
            told = [f"{note.name} ({note.where}): {note.why}"
                    for note in group.head(most).itertuples(index=False)]
            count = int(group["count"].sum())
            if len(group) > most:
                told.append(f"and {len(group) - most} more")
            table.append({"what": what, "count": count, "named": "; ".join(told)})
        table.append({"what": "samples", "count": len(self.samples), "named": ""})
        return pd.DataFrame(table)


class Reading:
    """Collects rows and notes while a reader goes through a file."""

    def __init__(self, name: str):
        self.name, self.read = name, 0
        self.rows: list[Row] = []
        self.notes: list[dict] = []

    def note(self, what: str, name: str, where: str, why: str, count: int = 1) -> None:
        """what: one of WHATS. count: how many entries it stands for."""
        if what not in WHATS:
            raise ValueError(f"{what!r} is not one of {WHATS}")
        self.notes.append({"what": what, "name": name, "where": where, "why": why,
                           "count": count})

    def part_of(self, rows: list, most: int | None, seed: int) -> list:
        """So many of the rows, drawn at random, in their order; the others are noted as left out.

        Raises ValueError if most is not a whole number of at least 1.
        """
        if most is None:
            return rows
        if not isinstance(most, Integral) or most < 1:
            raise ValueError(f"most is a whole number of at least 1, not {most!r}")
        if most >= len(rows):
            return rows
        chosen = np.random.default_rng(seed).permutation(len(rows))[:most]
        self.note("left out", f"{len(rows) - most} rows", self.name,
                  f"{most} of {len(rows)} were asked for", len(rows) - most)
        return [rows[i] for i in sorted(chosen.tolist())]

    def finish(self, most: int | None = None, seed: int = 0) -> RealData:
        """The samples of all rows whose images are there and can be read.

        most: take that many rows, drawn at random with this seed; the others count as left
        out. Raises ValueError if no row can be used.
        """
        self.rows = self.part_of(self.rows, most, seed)
        rows = self._with_all_images()
        self._refuse_nothing(rows)
        refused: list[tuple[int, str]] = []
        samples = own_samples(({"images": row.images, "prompt": row.prompt, "answer": row.answer,
                                "task": row.task} for row in rows), self.name, refused)
        for number, reason in refused:
            self.note("images unreadable", rows[number].name, rows[number].where, reason)
            self.note("dropped", rows[number].name, rows[number].where,
                      "an image cannot be read")
        gone = {number for number, _ in refused}
        rows = [row for number, row in enumerate(rows) if number not in gone]
        table = pd.DataFrame([{"name": row.name, "where": row.where, **row.details}
                              for row in rows])
        samples = self._with_truth(samples, rows)
        notes = pd.DataFrame(self.notes, columns=["what", "name", "where", "why", "count"])
        return RealData(self.name, samples, table, notes, self.read)

    def _with_all_images(self) -> list[Row]:
        """The rows none of whose files is missing; each missing file is noted once."""
        there: dict[Path, bool] = {}
        kept = []
        for row in self.rows:
            lost = []
            for image in row.images:
                if isinstance(image, Path):
                    if image not in there:
                        there[image] = os.path.isfile(image)    # also of names no file can have
                        if not there[image]:
                            self.note("images missing", image.name, row.where,
                                      f"there is no {image}")
                        elif kind := _other_kind(image):
                            self.note("mended", image.name, row.where,
                                      f"is a {kind}, whatever its name says, and read as one")
                    if not there[image]:
                        lost.append(image.name)
            if lost:
                self.note("dropped", row.name, row.where, f"{lost[0]} is missing")
            else:
                kept.append(row)
        return kept

    def _with_truth(self, samples: TaskDataset, rows: Sequence[Row]) -> TaskDataset:
        """The samples, with the captions and dates of their images in the table's truth."""
        truth, files = samples.table.truth, samples.table.files
        captions = [list(texts) for texts in truth.captions]
        known: list[set[str]] = [set() for _ in captions]
        for row, recipe in zip(rows, samples.recipes, strict=True):
            if row.captions:
                captions[recipe.rows[0]] = list(row.captions)
            for position, date in zip(recipe.rows, row.dates, strict=False):
                known[position] |= {date} - {""}
        for position, dates in enumerate(known):
            if len(dates) > 1:
                self.note("mended", files[position], self.name,
                          f"has the dates {', '.join(sorted(dates))}: none is used")
                dates.clear()
        dates = [next(iter(dates), "") for dates in known]
        truth = Truth(truth.scenes, captions, truth.sites, dates if any(dates) else ())
        return replace(samples, table=replace(samples.table, truth=truth))

    def _refuse_nothing(self, rows: Sequence[Row]) -> None:
        if rows:
            return
        first = next((f"{note['name']}: {note['why']}" for what in WHATS for note in self.notes
                      if note["what"] == what), "the file is empty")
        missing = any(note["what"] == "images missing" for note in self.notes)
        raise ValueError(f"{self.name}: none of its {self.read} rows can be used ({first})"
                         + (": is this the folder into which the images were unpacked?"
                            if missing else ""))


def _other_kind(file: Path) -> str | None:
    """The format of a picture if its name promises another one."""
    promised = Image.registered_extensions().get(file.suffix.lower())
    try:
        with Image.open(file) as picture:
            kind = "JPEG" if picture.format == "MPO" else picture.format
    except Exception:           # whatever Pillow raises: own_samples says why it cannot be read
        return None
    return None if promised in (None, kind) else kind


# --- files ---------------------------------------------------------------------------------------

def find_file(folder: str | Path, *names: str) -> Path:
    """The first of these files that the folder holds. Raises FileNotFoundError naming all."""
    for name in names:
        if (Path(folder) / name).is_file():
            return Path(folder) / name
    raise FileNotFoundError(f"{folder}: holds none of {', '.join(names)}: give the folder into "
                            "which the data set was unpacked")


def find_folder(folder: str | Path, *names: str) -> Path:
    """The first of these folders that is there, else the folder itself."""
    return next((Path(folder) / name for name in names if (Path(folder) / name).is_dir()),
                Path(folder))


def json_lines(file: Path) -> Iterator[tuple[str, dict]]:
    """Each record of a file of JSON lines, with its place. Raises ValueError naming the line."""
    for number, line in enumerate(read_lines(file), start=1):
        if line.strip():
            where = f"{file.name} line {number}"
            yield where, _record(_parsed(line, where), where)


def json_list(file: Path, key: str | None = None) -> Iterator[tuple[str, dict]]:
    """Each record of a JSON list, with its place, counted from 0; key: of the list in an object.

    Raises ValueError naming the file or the row.
    """
    content = _parsed(read_text(file), file.name)
    if key is not None:
        if not isinstance(content, dict) or key not in content:
            raise ValueError(f"{file.name}: is not an object with the key {key!r}")
        content = content[key]
    if not isinstance(content, list):
        raise ValueError(f"{file.name}: holds a {type(content).__name__}, not a list of records")
    for number, record in enumerate(content):
        where = f"{file.name} row {number}"
        yield where, _record(record, where)


def take(record: Mapping, key: str, kind: type, where: str):
    """A field of a record. Raises ValueError naming the row if it is absent or of another kind."""
    if key not in record:
        raise ValueError(f"{where}: lacks {key!r} (found: {', '.join(map(str, record))})")
    if not isinstance(record[key], kind):
        raise ValueError(f"{where}: {key} is {record[key]!r:.80}, not a {kind.__name__}")
    return record[key]


def clean(text: str) -> str:
    """A sentence as one would type it: single spaces, none before a full stop; nothing in it is
    a command to the model."""
    return as_text(re.sub(r"\s+([.,;:?!])", r"\1", " ".join(text.split())))


def write_json(file: Path, content, of_other_splits: bool = False) -> None:
    write_new(file, json.dumps(content, indent=1).encode(), of_other_splits)


def write_lines(file: Path, lines: Sequence[str], of_other_splits: bool = False) -> None:
    write_new(file, "".join(f"{line}\n" for line in lines).encode(), of_other_splits)


def write_picture(picture: Image.Image, file: Path, kind: str | None = None) -> None:
    """kind: the format if it is not the one that the name says, as "JPEG"."""
    stream = io.BytesIO()
    kind = kind or Image.registered_extensions()[file.suffix]
    picture.save(stream, format=kind, **({"quality": 95} if kind == "JPEG" else {}))
    write_new(file, stream.getvalue())


def write_new(file: Path, content: bytes, of_other_splits: bool = False) -> None:
    """Raises FileExistsError for a file that is there and holds something else: in a folder with
    the real data set, nothing of it is replaced. of_other_splits: it holds other splits as well,
    which are in the content, and what it held of this one was compared (`keep_split`)."""
    if file.exists() and not of_other_splits and (
            not file.is_file() or file.read_bytes() != content):
        raise FileExistsError(f"{file} {_ELSE}")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)


def keep_split(file: Path, split: str, held: Sequence, new: Sequence) -> None:
    """Raises FileExistsError if a file holds a record of a split that is not among the new ones."""
    if any(record not in new for record in held):
        raise FileExistsError(f"{file}: split {split!r} {_ELSE}")


def needs_scenes(table: ImageTable) -> None:
    """Raise ValueError for a table whose scenes are not known: nothing true could be written."""
    if not table.truth.has_scenes:
        raise ValueError(f"{table.name}: its scenes are not known: take load_series_table(split)")


def refuse_few(table: ImageTable, tried: int, most: int = 100) -> int:
    """One sentence more that could not be asked of a table. Raises ValueError if there are so many
    that the table must be too small: looking for others would not end."""
    if tried == most:
        raise ValueError(f"{table.name}: of its {len(table)} images no sentence is true of some "
                         "and false of others: take a larger table")
    return tried + 1


def _parsed(text: str, where: str):
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:       # the latter: lists in lists in lists ...
        raise ValueError(f"{where}: is not JSON ({error})") from error


def _record(value, where: str) -> dict:
    if not isinstance(value, dict):
        raise ValueError(f"{where}: is a {type(value).__name__}, not a record")
    return value
