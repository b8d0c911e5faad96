"""NLVR2: is a sentence true of two photographs? (Suhr et al. 2019, github.com/lil-lab/nlvr)

JSON lines. `identifier` is split-set-pair-sentence: one sentence is asked of up to four pairs.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np

from vlm_utils.architecture import IMAGE_TOKEN
from vlm_utils.datasets import ImageTable
from vlm_utils.real_data.records import (
    Reading,
    RealData,
    Row,
    clean,
    find_file,
    find_folder,
    json_lines,
    needs_scenes,
    refuse_few,
    take,
    write_lines,
    write_picture,
)
from vlm_utils.tiny_earth import Scene, cover_phrase, phrase, with_article

QUESTION = "True or false?"
LABELS = {"true": "True", "false": "False"}


def read_nlvr2(folder: str | Path, split: str = "dev", most: int | None = None,
               seed: int = 0) -> RealData:
    """The pairs of a split with their sentences; the answer is "True" or "False".

    folder: with `<split>.json` in it or in `data`, and the pictures at any depth below `images` or
    itself. rows: name (the identifier), where, sentence (which sentence group, for consistency),
    agreement (the share of validators who gave the label; nan if unknown). most, seed: a random
    part. Raises ValueError naming file and line if a record cannot be read.
    """
    file = find_file(folder, f"{split}.json", f"data/{split}.json", f"nlvr2/data/{split}.json")
    pictures = {path.name: path
                for path in sorted(find_folder(folder, "images").rglob("*-img[01].png"))}
    reading = Reading(f"NLVR2 {split}")
    for where, record in json_lines(file):
        reading.read += 1
        name = take(record, "identifier", str, where)
        parts = name.split("-")
        if len(parts) != 4:
            raise ValueError(f"{where}: identifier is {name!r}, not split-set-pair-sentence")
        sentence = clean(take(record, "sentence", str, where))
        if not sentence:
            reading.note("empty", name, where, "the sentence is empty")
            reading.note("dropped", name, where, "the sentence is empty")
            continue
        answer = label_of(record, where)
        files = [f"{'-'.join(parts[:3])}-img{k}.png" for k in (0, 1)]
        images = [pictures.get(f, Path(folder) / "images" / f) for f in files]
        reading.rows.append(Row(
            images, f"{IMAGE_TOKEN * 2}{sentence} {QUESTION}", answer, "nlvr2", name, where,
            {"sentence": f"{parts[0]}-{parts[1]}-{parts[3]}",
             "agreement": _agreement(reading, record, answer, name, where)}))
    return reading.finish(most, seed)


def label_of(record: dict, where: str) -> str:
    """ "True" or "False", whether the file has a text in any case or a boolean."""
    label = record.get("label")
    text = str(label).strip().lower()
    if text not in LABELS:
        raise ValueError(f"{where}: label is {label!r}, neither true nor false")
    return LABELS[text]


def _agreement(reading: Reading, record: dict, answer: str, name: str, where: str) -> float:
    """How many of the validators gave the label; their answers are a Python dict in a string."""
    votes = record.get("validation")
    if isinstance(votes, str):
        try:
            votes = ast.literal_eval(votes)
        except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):   # as documented
            reading.note("mended", name, where, f"validation is {votes!r:.40}: not used")
            votes = None
    if not isinstance(votes, dict) or not votes:
        return float("nan")
    return sum(str(vote).lower() == answer.lower() for vote in votes.values()) / len(votes)


# --- TinyEarth in this format --------------------------------------------------------------------

def write_nlvr2(folder: str | Path, table: ImageTable, split: str = "dev", sentences: int = 20,
                seed: int = 0) -> None:
    """TinyEarth as NLVR2: sentences about two tiles, each asked of two pairs for which it is true
    and two for which it is false. The oddities of the real files are there too: labels are texts,
    validation is a Python dict in a string, and the first picture is a JPEG under the name .png.
    """
    needs_scenes(table)
    rng, scenes = np.random.default_rng(seed), table.truth.scenes
    lines: list[str] = []
    number = tried = 0
    while number < sentences:
        text, holds = _sentence(scenes[rng.integers(len(scenes))], rng)
        pairs = _pairs(scenes, holds, rng) if len(scenes) > 1 else None
        if pairs is None:                       # true, or false, of hardly any pair: another one
            tried = refuse_few(table, tried)
            continue
        for k, (rows, label) in enumerate(pairs):
            for i, row in enumerate(rows):
                file = Path(folder) / "images" / split / f"{split}-{number}-{k}-img{i}.png"
                write_picture(table.image(row), file, "PNG" if lines or i else "JPEG")
            lines.append(json.dumps({
                "sentence": text, "label": str(label), "identifier": f"{split}-{number}-{k}-0",
                "synset": "tile", "validation": str({"0": str(label), "1": "True"})}))
        number, tried = number + 1, 0
    write_lines(Path(folder) / "data" / f"{split}.json", lines)


def _sentence(scene: Scene, rng: np.random.Generator
              ) -> tuple[str, Callable[[Scene, Scene], bool]]:
    """A sentence about two scenes, begun from one of them, and whether it holds of any two."""
    cover, features = scene.cover, scene.features
    kind = int(rng.integers(4)) if features else 0
    if kind == 0:
        return (f"Both images show {cover_phrase(cover)}.",
                lambda a, b: a.cover == b.cover == cover)
    feature = features[int(rng.integers(len(features)))]

    def has(s: Scene) -> bool:
        return any(f.kind == feature.kind for f in s.features)

    thing = with_article(feature.kind)
    if kind == 1:
        return (f"The left image shows {phrase(feature)}.",
                lambda a, b: any((f.kind, f.place) == (feature.kind, feature.place)
                                 for f in a.features))
    if kind == 2:
        return f"Exactly one of the images shows {thing}.", lambda a, b: has(a) != has(b)
    return f"There is {thing} in the right image.", lambda a, b: has(b)


def _pairs(scenes, holds, rng) -> list[tuple[tuple[int, int], bool]] | None:
    found: dict[bool, list] = {True: [], False: []}
    for _ in range(600):
        a, b = map(int, rng.choice(len(scenes), 2, replace=False))
        label = holds(scenes[a], scenes[b])
        if len(found[label]) < 2:
            found[label].append(((a, b), label))
        if all(len(pairs) == 2 for pairs in found.values()):
            return [pair for both in zip(*found.values(), strict=True) for pair in both]
    return None
