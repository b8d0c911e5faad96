"""Spot-the-Diff: what differs between two frames of a surveillance camera? (Jhamtani and
Berg-Kirkpatrick 2018, github.com/harsh19/spot-the-diff)

A JSON list of {"img_id", "sentences"}; the pictures are <id>.png and <id>_2.png. What several
people wrote of a pair stands in several entries of the same id.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from vlm_utils.architecture import IMAGE_TOKEN
from vlm_utils.datasets import COMPARE_PROMPT, ImageTable
from vlm_utils.datasets.changes import pair_of_site
from vlm_utils.real_data.records import (
    Reading,
    RealData,
    Row,
    clean,
    find_file,
    find_folder,
    json_list,
    needs_scenes,
    take,
    write_json,
    write_picture,
)
from vlm_utils.tiny_earth import describe_change

SPLITS = {"validation": "val"}
SAME = "there is no difference"


def read_spot_the_diff(folder: str | Path, split: str = "train", every_reference: bool = False,
                       most: int | None = None, seed: int = 0) -> RealData:
    """Pairs of pictures; the answer is what one person wrote, all sentences one after the other.

    folder: with `<split>.json` in it or in `data/annotations`, and the pictures in
    `resized_images`, `images` or itself. split: train, val (or validation) or test.
    every_reference: a sample for what each person wrote, to train on; else one per pair, to
    measure on. rows: name (the img_id), where, references (what each person wrote).
    Raises ValueError naming file and row if an entry cannot be read.
    """
    split = SPLITS.get(split, split)
    file = find_file(folder, f"{split}.json", f"data/annotations/{split}.json",
                     f"annotations/{split}.json")
    pictures = find_folder(folder, "resized_images", "images", "data/resized_images")
    reading = Reading(f"Spot-the-Diff {split}")
    texts: dict[str, list[str]] = {}
    places: dict[str, str] = {}
    for where, record in json_list(file):
        reading.read += 1
        name = record.get("img_id")
        name = str(name).strip() if isinstance(name, str | int) else ""
        if not name:
            raise ValueError(f"{where}: lacks an img_id, a text or a whole number "
                             f"(found: {record.get('img_id')!r:.40})")
        text = _text(reading, take(record, "sentences", list, where), name, where)
        if name in texts:
            reading.note("merged", name, where, f"{places[name]} is of the same pair")
        texts.setdefault(name, [])
        places.setdefault(name, where)
        texts[name] += [text] if text else []
    for name, references in texts.items():
        if not references:
            reading.note("dropped", name, places[name], "no sentence was written about the pair")
            continue
        images = [pictures / f"{name}.png", pictures / f"{name}_2.png"]
        reading.rows += [Row(images, IMAGE_TOKEN * 2 + COMPARE_PROMPT, text, "spot_the_diff",
                             name, places[name], {"references": references})
                         for text in (references if every_reference else references[:1])]
    return reading.finish(most, seed)


def _text(reading: Reading, sentences: list, name: str, where: str) -> str:
    """What one person wrote, as one text; an empty one is noted."""
    kept = []
    for sentence in sentences:
        if not isinstance(sentence, str):
            raise ValueError(f"{where}: a sentence is {sentence!r:.40}, not a text")
        if clean(sentence):
            kept.append(clean(sentence))
    empty = len(sentences) - len(kept)
    if empty or not sentences:
        reading.note("empty", name, where, f"{empty} of {len(sentences)} sentences are empty"
                     if sentences else "holds no sentence", max(1, empty))
    return " ".join(f"{sentence.rstrip('.')}." for sentence in kept)


# --- TinyEarth in this format --------------------------------------------------------------------

def write_spot_the_diff(folder: str | Path, table: ImageTable, split: str = "train",
                        pairs: int = 12, seed: int = 0) -> None:
    """Pairs of tiles of one site with the change between them, in small letters.

    As in the real files, every third pair has a second annotator, an entry of its own at the end
    of the list, and the last entry of all holds an empty sentence.
    """
    needs_scenes(table)
    rng, scenes = np.random.default_rng(seed), table.truth.scenes
    entries, later = [], []
    for number in range(pairs):
        first, second = pair_of_site(table.truth, rng)
        text = describe_change(scenes[first], scenes[second]).lower().rstrip(".")
        text = SAME if text == "nothing changed" else text
        name = str(100 + number)
        for row, file in ((first, f"{name}.png"), (second, f"{name}_2.png")):
            write_picture(table.image(row), Path(folder) / "resized_images" / file)
        entries.append({"img_id": name, "sentences": [text]})
        if number % 3 == 0:
            later.append({"img_id": name, "sentences": [f"in the second picture {text}"]})
    write_json(Path(folder) / "data" / "annotations" / f"{split}.json",
               [*entries, *later, {"img_id": "100", "sentences": [""]}])
