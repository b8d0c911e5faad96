"""Flickr8k as its official text files have it: five captions for each photograph (Hodosh et al.
2013)

`Flickr8k.token.txt` has a caption per line, name.jpg#k<TAB>caption; `Flickr_8k.trainImages.txt`,
`devImages` and `testImages` name the pictures of each split.
"""

from __future__ import annotations

import os
from pathlib import Path

from vlm_utils.architecture import IMAGE_TOKEN
from vlm_utils.datasets import DESCRIBE_PROMPT, ImageTable
from vlm_utils.real_data.records import (
    Reading,
    RealData,
    Row,
    clean,
    find_file,
    find_folder,
    keep_split,
    write_lines,
    write_picture,
)
from vlm_utils.sources.metadata import read_lines

SPLITS = {"validation": "dev"}


def read_flickr8k(folder: str | Path, split: str = "test", every_reference: bool = False,
                  most: int | None = None, seed: int = 0) -> RealData:
    """Photographs of a split to describe; the answer is the first of up to five captions.

    folder: with the text files in it or in `Flickr8k_text`, and the pictures in
    `Flicker8k_Dataset` (so it is spelled), `Flickr8k_Dataset` or `images`. split: train, dev (or
    validation) or test. every_reference: a sample for each caption. rows: name, where, references.
    The table knows all captions, so `build_tasks(data.samples.table, ...)` makes selections of it.
    Rows of the report are captions. Raises ValueError naming file and line if one cannot be read.
    """
    split = SPLITS.get(split, split)
    folders = ("", "Flickr8k_text/")
    tokens = find_file(folder, *(f"{f}Flickr8k.token.txt" for f in folders))
    chosen = find_file(folder, *(f"{f}Flickr_8k.{split}Images.txt" for f in folders))
    pictures = find_folder(folder, "Flicker8k_Dataset", "Flickr8k_Dataset", "images", "Images")
    wanted = {line.strip() for line in read_lines(chosen) if line.strip()}
    reading = Reading(f"Flickr8k {split}")
    captions, places, others = _captions(reading, tokens, wanted, pictures)
    if others:
        reading.note("left out", f"{others} captions", tokens.name,
                     f"of pictures that are not of the split {split}", others)
    for name in sorted(wanted - set(captions)):
        reading.note("empty", name, chosen.name, "has no caption")
    for name, texts in captions.items():
        if len(texts) > 1 and not every_reference:
            reading.note("merged", name, places[name],
                         f"{len(texts)} captions, one picture", len(texts) - 1)
        reading.rows += [Row([pictures / name], IMAGE_TOKEN + DESCRIBE_PROMPT, text, "describe",
                             name, places[name], {"references": texts}, captions=texts)
                         for text in (texts if every_reference else texts[:1])]
    return reading.finish(most, seed)


def _captions(reading: Reading, tokens: Path, wanted: set[str], pictures: Path
              ) -> tuple[dict[str, list[str]], dict[str, str], int]:
    """Captions and their places by the name of the picture, and how many are of other splits."""
    captions: dict[str, list[str]] = {}
    places: dict[str, str] = {}
    others = 0
    for number, line in enumerate(read_lines(tokens), start=1):
        if not line.strip():
            continue
        where = f"{tokens.name} line {number}"
        reading.read += 1
        key, tab, text = line.partition("\t")
        name, mark, index = key.rpartition("#")
        if not tab or not mark or not index.strip().isdecimal():
            raise ValueError(f"{where}: is {line[:60]!r}, not name.jpg#0, a tab and a caption")
        if name not in wanted:
            if not os.path.isfile(pictures / name):
                reading.note("images missing", name, where,
                             "a caption names it, no split does, and there is no such file")
            others += 1
            continue
        captions.setdefault(name, [])
        places.setdefault(name, where)
        if clean(text):
            captions[name].append(clean(text))
        else:
            reading.note("empty", name, where, "the caption is empty")
            reading.note("dropped", name, where, "the caption is empty")
    return captions, places, others


# --- TinyEarth in this format --------------------------------------------------------------------

def write_flickr8k(folder: str | Path, table: ImageTable, split: str = "test", images: int = 12
                   ) -> None:
    """The first tiles of a table as JPEG with their five captions; any table with captions will do.

    As in the real file, words and full stops stand apart, and a caption names a picture that is not
    there. What the folder holds of other splits is kept.
    Raises FileExistsError if it holds another file, or other pictures of this split.
    """
    if not table.truth.has_captions:
        raise ValueError(f"{table.name}: its captions are not known")
    file = Path(folder) / "Flickr8k_text" / "Flickr8k.token.txt"
    held = [line for line in read_lines(file) if line] if file.is_file() else [
        "2258277193_586949ec62.jpg.1#0\tA picture that nobody has ."]
    names, lines = [], []
    for row in range(min(images, len(table))):
        names.append(f"{split}_{row:06}.jpg")
        write_picture(table.image(row), Path(folder) / "Flicker8k_Dataset" / names[-1], "JPEG")
        lines += [f"{names[-1]}#{k}\t{' '.join(text.split()).rstrip('.')} ."    # on one line
                  for k, text in enumerate(table.truth.captions[row])]
    keep_split(file, split, [line for line in held if line.startswith(f"{split}_")], lines)
    others = [line for line in held if not line.startswith(f"{split}_")]
    write_lines(file, others + lines, of_other_splits=True)
    write_lines(file.parent / f"Flickr_8k.{split}Images.txt", names)
