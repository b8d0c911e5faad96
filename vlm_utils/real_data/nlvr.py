"""NLVR: is a sentence true of three boxes drawn in one picture? (Suhr et al. 2017, CC BY 4.0,
github.com/lil-lab/nlvr)

JSON lines. `identifier` is sentence-picture; each picture is drawn in six orders of its boxes.
"""

from __future__ import annotations

import json
import os
from itertools import permutations
from pathlib import Path

import numpy as np
from PIL import Image

from vlm_utils.architecture import IMAGE_TOKEN
from vlm_utils.datasets import ImageTable
from vlm_utils.real_data.nlvr2 import QUESTION, label_of
from vlm_utils.real_data.records import (
    Reading,
    RealData,
    Row,
    clean,
    find_file,
    json_lines,
    needs_scenes,
    refuse_few,
    take,
    write_lines,
    write_picture,
)
from vlm_utils.sources.images import UnreadableImage, open_image
from vlm_utils.tiny_earth import Scene, cover_phrase, with_article

SIZE, SIDE, STARTS = (400, 100), 100, (0, 150, 300)
ORDERS = 6


def read_nlvr(folder: str | Path, split: str = "dev", orders: int = ORDERS,
              most: int | None = None, seed: int = 0) -> RealData:
    """Each picture as three images, its boxes from left to right; the answer is "True" or "False".

    folder: with `<split>/<split>.json` and `<split>/images/<directory>/`, or `nlvr` above them.
    orders: how many of the six pictures of each record; the official score counts all. rows: name
    (identifier-order), where, sentence (which sentence, for consistency). A picture that is not
    400 x 100 is dropped. Raises ValueError naming file and line if a record cannot be read.
    """
    if not isinstance(orders, int) or not 1 <= orders <= ORDERS:
        raise ValueError(f"orders is 1 to {ORDERS}, not {orders}")
    file = find_file(folder, f"{split}/{split}.json", f"nlvr/{split}/{split}.json",
                     f"{split}.json")
    reading = Reading(f"NLVR {split}")
    entries = []
    for where, record in json_lines(file):
        identifier = take(record, "identifier", str, where)
        sentence = clean(take(record, "sentence", str, where))
        answer = label_of(record, where)
        inside = record.get("directory")
        directory = file.parent / "images" / ("" if inside is None else str(inside))
        reading.read += orders
        if not sentence:
            reading.note("empty", identifier, where, "the sentence is empty")
            reading.note("dropped", identifier, where, "the sentence is empty", orders)
            continue
        entries += [(directory / f"{split}-{identifier}-{k}.png", f"{identifier}-{k}", where,
                     sentence, answer) for k in range(orders)]
    # Chosen before any picture is opened and cut.
    for picture, name, where, sentence, answer in reading.part_of(entries, most, seed):
        boxes = _boxes(reading, picture, name, where)
        if boxes is not None:
            reading.rows.append(Row(boxes, f"{IMAGE_TOKEN * 3}{sentence} {QUESTION}", answer,
                                    "nlvr", name, where, {"sentence": name.split("-")[0]}))
    return reading.finish()


def _boxes(reading: Reading, file: Path, name: str, where: str) -> list[Image.Image] | None:
    """The three boxes of a picture; None, with a note, if it cannot be cut."""
    if not os.path.isfile(file):
        reading.note("images missing", file.name, where, f"there is no {file}")
        reading.note("dropped", name, where, f"{file.name} is missing")
        return None
    try:
        picture = open_image(file)
    except UnreadableImage as error:
        reading.note("images unreadable", file.name, where, str(error))
        reading.note("dropped", name, where, "an image cannot be read")
        return None
    if picture.size != SIZE:
        reading.note("dropped", name, where, f"{file.name} is {picture.size[0]} x "
                     f"{picture.size[1]}, not {SIZE[0]} x {SIZE[1]}: its boxes are not known")
        return None
    return [picture.crop((left, 0, left + SIDE, SIDE)) for left in STARTS]


# --- TinyEarth in this format --------------------------------------------------------------------

def write_nlvr(folder: str | Path, table: ImageTable, split: str = "dev", sentences: int = 8,
               seed: int = 0) -> None:
    """TinyEarth as NLVR: three tiles side by side, with a sentence that counts what they show.

    Each sentence is asked of two pictures, one for which it is true and one for which it is false,
    each in six orders. As in the real files, labels are texts in small letters.
    """
    needs_scenes(table)
    rng, scenes = np.random.default_rng(seed), table.truth.scenes
    lines: list[str] = []
    number = tried = 0
    while number < sentences:
        text, holds = _sentence(scenes[rng.integers(len(scenes))], rng)
        found: dict[bool, list[int]] = {}
        for _ in range(600 if len(scenes) > 2 else 0):
            rows = rng.choice(len(scenes), 3, replace=False).tolist()
            found.setdefault(holds([scenes[row] for row in rows]), rows)
            if len(found) == 2:
                break
        else:                                   # true of hardly any three tiles: another sentence
            tried = refuse_few(table, tried)
            continue
        for k, (label, rows) in enumerate(sorted(found.items())):
            for j, order in enumerate(permutations(rows)):
                write_picture(_picture(table, order), Path(folder) / split / "images" / "0"
                              / f"{split}-{number}-{k}-{j}.png")
            lines.append(json.dumps({"sentence": text, "label": str(label).lower(),
                                     "identifier": f"{number}-{k}", "directory": "0",
                                     "evals": {"r0": str(label).lower()}}))
        number, tried = number + 1, 0
    write_lines(Path(folder) / split / f"{split}.json", lines)


def _picture(table: ImageTable, rows) -> Image.Image:
    picture = Image.new("RGB", SIZE, "white")
    for left, row in zip(STARTS, rows, strict=True):
        picture.paste(table.image(row).resize((SIDE, SIDE)), (left, 0))
    return picture


def _sentence(scene: Scene, rng: np.random.Generator):
    """A sentence about three scenes, and whether it holds of any three."""
    cover, count = scene.cover, int(rng.integers(1, 3))
    number = ("one box", "two boxes")[count - 1]
    if not scene.features or rng.random() < 0.3:
        return (f"There is a box with {cover_phrase(cover)}.",
                lambda three: any(s.cover == cover for s in three))
    kind = scene.features[int(rng.integers(len(scene.features)))].kind

    def having(three) -> int:
        return sum(any(f.kind == kind for f in s.features) for s in three)

    return f"Exactly {number} with {with_article(kind)}.", lambda three: having(three) == count
