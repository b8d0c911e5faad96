"""What a metadata file says of a folder's pictures: file names, captions, splits, dates.

Read is what the `imagefolder` convention of `datasets` has: metadata.jsonl, .csv or .parquet.
Nothing that it says is dropped without a word: what cannot be used is refused, with file and row.
"""

from __future__ import annotations

import codecs
import csv
import io
import json
import math
import re
import unicodedata
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pyarrow import parquet

from vlm_utils.sources.dates import parse_date

NAMES = ("metadata.jsonl", "metadata.csv", "metadata.parquet")
SPLITS = {"train": "train", "training": "train", "test": "test", "testing": "test",
          "validation": "validation", "valid": "validation", "val": "validation",
          "dev": "validation"}
MAX_CAPTION = 10_000                # characters; what a model can hold is asked when it is known
MAX_BYTES = 200_000_000             # of a metadata file
_CAPTION = re.compile(r"caption(_\d+)?")
_EXPECTED = ("captions are read from the columns caption_0, caption_1 ..., or caption, or text; "
             "splits from split; dates from date; the picture's name from file_name")
_LINE_END = re.compile(r"\r\n|\r|\n")
_ENCODINGS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16",
              codecs.BOM_UTF16_BE: "utf-16"}


@dataclass(frozen=True)
class Entry:
    """One row. where: its file and line, for errors. split: as the file says, or None. date: in
    ISO 8601, as precise as it is given, or None."""

    where: str
    file_name: str
    captions: tuple[str, ...]
    split: str | None
    date: str | None = None


def metadata_files(folder: Path) -> list[Path]:
    """The metadata files of a folder, whatever the case of their names: Metadata.CSV is one."""
    return sorted((path for path in folder.iterdir()
                   if path.name.lower() in NAMES and path.is_file()),
                  key=lambda path: NAMES.index(path.name.lower()))


def read_metadata(folder: Path) -> list[Entry] | None:
    """The rows of a folder's metadata file; None if it has none.

    Raises ValueError naming file and row of what is not as it should be, with what was found and
    what is expected.
    """
    files = metadata_files(folder)
    if not files:
        return None
    if len(files) > 1:
        raise ValueError(f"{folder}: holds {' and '.join(file.name for file in files)}: keep the "
                         "one that is meant")
    path, = files
    if path.stat().st_size > MAX_BYTES:
        raise ValueError(f"{path}: is a file of {path.stat().st_size / 1e6:.0f} MB, more than the "
                         f"{MAX_BYTES / 1e6:.0f} that are read")
    rows = list(_READERS[path.suffix.lower()](path))
    if not rows:
        raise ValueError(f"{path}: names no image")
    for where, row in rows:
        if not isinstance(row, dict) or not isinstance(row.get("file_name"), str):
            if isinstance(row, dict) and "file_name" in row:
                raise ValueError(f"{where}: has no file_name that is a text (found: "
                                 f"{row['file_name']!r:.60}): write the name of one picture")
            found = ", ".join(map(str, row)) if isinstance(row, dict) else type(row).__name__
            raise ValueError(f"{where}: has no file_name (found: {found or 'nothing'}); "
                             f"{_EXPECTED}")
    columns = _caption_columns(path, rows)
    return [Entry(where, row["file_name"],
                  tuple(_caption(row[column], f"{where}, {column}") for column in columns
                        if row.get(column) is not None),
                  _split(row.get("split"), where), parse_date(row.get("date"), where))
            for where, row in rows]


def _caption_columns(path: Path, rows: list[tuple[str, dict]]) -> list[str]:
    """The columns that hold captions, in order; none if there are only names, splits and dates."""
    found = list(dict.fromkeys(str(column) for _, row in rows for column in row))
    captions = sorted((column for column in found if _CAPTION.fullmatch(column)),
                      key=lambda column: int(column.partition("_")[2] or -1))
    if "text" in found and not captions:
        captions = ["text"]
    elif "text" in found:
        warnings.warn(f"{path}: the column text is not read, because {captions[0]} is there",
                      stacklevel=4)
    others = [column for column in found if column not in ("file_name", "split", "date")]
    if others and not captions:
        raise ValueError(f"{path}: has no captions. Its columns are {', '.join(found)}; "
                         f"{_EXPECTED}")
    return captions


def _caption(value, where: str) -> str:
    """The value, if it is a text with words in it that a tokenizer can read."""
    if isinstance(value, float) and math.isnan(value):
        raise ValueError(f"{where}: is NaN, not a text")
    if not isinstance(value, str):
        remedy = ("write several captions as caption_0, caption_1 ..., or as several rows"
                  if isinstance(value, list | tuple | dict) else "write a text in its place")
        raise ValueError(f"{where}: is of type {type(value).__name__} ({str(value)[:40]}): "
                         f"{remedy}")
    if all(unicodedata.category(sign)[0] in "ZC" for sign in value):
        raise ValueError(f"{where}: is empty or white space: write a caption, or leave it away")
    if len(value) > MAX_CAPTION:
        raise ValueError(f"{where}: has {len(value)} characters, more than {MAX_CAPTION}")
    if re.search("[\ud800-\udfff]", value):
        raise ValueError(f"{where}: holds half of a character (a lone surrogate such as \\ud800): "
                         "write the file again from its source, as UTF-8")
    return value.strip()


def _split(value, where: str) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str) or value.strip().lower() not in SPLITS:
        raise ValueError(f"{where}: split is {value!r}, not one of train, validation or test")
    return SPLITS[value.strip().lower()]


def _read_jsonl(path: Path) -> Iterator[tuple[str, object]]:
    for number, line in enumerate(read_lines(path), start=1):
        if line.strip():
            try:
                yield f"{path}, line {number}", json.loads(line, object_pairs_hook=_each_once)
            except (ValueError, RecursionError) as error:
                raise ValueError(f"{path}, line {number}: is not JSON ({error})") from error


def _each_once(pairs: list[tuple[str, object]]) -> dict:
    """A JSON object. Of two values with one name, json keeps the last and says nothing."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"it has {twice!r} twice")
    return found


def _read_csv(path: Path) -> Iterator[tuple[str, dict]]:
    """Rows of a table whose first line names the columns; a cell that is left empty is None."""
    text = read_text(path)
    first = _LINE_END.split(text, maxsplit=1)[0]
    separator = next((sign for sign in ",;\t" if "file_name" in
                      [name.strip('"\r ') for name in first.split(sign)]), ",")
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    try:
        header = [name.strip() for name in next(reader, [])]
        if len(set(header)) < len(header):
            raise ValueError(f"{path}: a column stands twice in its first line: "
                             f"{', '.join(header)}")
        for number, cells in enumerate((row for row in reader if row), start=1):
            where = f"{path}, row {number}"
            if len(cells) != len(header):
                raise ValueError(f"{where}: has {len(cells)} cells, the first line "
                                 f"{len(header)}: put a text that holds a comma into double "
                                 "quotes")
            row = {name: cell or None for name, cell in zip(header, cells, strict=True)}
            for name, cell in row.items():
                if cell is not None and cell.strip().lower() in ("nan", "none", "null"):
                    raise ValueError(f"{where}, {name}: is {cell!r}, which stands for a missing "
                                     "text: write one, or leave the cell empty")
            yield where, row
    except csv.Error as error:
        raise ValueError(f"{path}, line {reader.line_num}: is not a table that can be read "
                         f"({error})") from error


def _read_parquet(path: Path) -> Iterator[tuple[str, dict]]:
    try:
        file = parquet.ParquetFile(path)
        groups = [file.metadata.row_group(i) for i in range(file.metadata.num_row_groups)]
        if sum(group.total_byte_size for group in groups) > MAX_BYTES \
                or file.metadata.num_rows > MAX_BYTES // 100:
            raise ValueError("more than 200 MB when it is unpacked")
        wanted = [name for name in file.schema_arrow.names
                  if name in ("file_name", "split", "date", "text") or _CAPTION.fullmatch(name)]
        rows = file.read(columns=wanted).to_pylist() if "file_name" in wanted else []
        others = dict.fromkeys(set(file.schema_arrow.names) - set(wanted))
    except Exception as error:              # pyarrow has errors of its own for each kind of damage
        raise ValueError(f"{path}: cannot be read as a parquet file ({type(error).__name__}: "
                         f"{error})") from error
    if "file_name" not in wanted:
        raise ValueError(f"{path}: has no file_name (found: {', '.join(others) or 'nothing'})")
    for number, row in enumerate(rows, start=1):
        yield f"{path}, row {number}", row | others


_READERS = {".jsonl": _read_jsonl, ".csv": _read_csv, ".parquet": _read_parquet}


def read_lines(path: Path) -> list[str]:
    """The lines of a text file, whichever system wrote it. Raises ValueError as read_text does.

    A line ends at a line break alone: a JSON text, or a caption, may hold U+2028, which
    str.splitlines takes for an end.
    """
    return _LINE_END.split(read_text(path))


def read_text(path: Path) -> str:
    """A text file in UTF-8, with or without a byte order mark, or in UTF-16 with one.

    Raises ValueError naming the file and the line that is in another encoding.
    """
    data = path.read_bytes()
    encoding = next((name for mark, name in _ENCODINGS.items() if data.startswith(mark)), "utf-8")
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        line = data[:error.start].count(b"\n") + 1
        raise ValueError(f"{path}, line {line}: is not {encoding.upper()} (byte "
                         f"0x{data[error.start]:02x}): save it as UTF-8") from error
