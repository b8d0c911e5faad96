"""LEVIR-CC: what changed between two satellite images? (Liu et al. 2022,
github.com/Chen-Yang-Liu/RSICC)

One JSON object, {"images": [{"filename", "filepath", "split", "changeflag", "sentences"}]}, of all
splits; the pictures are images/<split>/A/<filename>, before, and .../B/<filename>, after.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

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
    keep_split,
    needs_scenes,
    take,
    write_json,
    write_picture,
)
from vlm_utils.tiny_earth import describe_change

SPLITS = {"validation": "val"}
SIDE = 256
# What the real file says of every pair without a change.
NO_CHANGE = ("the scene is the same as before", "there is no difference",
             "the two scenes seem identical", "no change has occurred",
             "almost nothing has changed")
_WORDINGS = ("{}", "in the later image {}", "compared with the first image , {}",
             "one sees that {}", "{} between the two dates")


def read_levir_cc(folder: str | Path, split: str = "test", every_reference: bool = False,
                  most: int | None = None, seed: int = 0) -> RealData:
    """Pairs of images of one site; the answer is the first of five sentences.

    folder: with `LevirCCcaptions.json` and `images/<split>/{A,B}`. split: train, val (or
    validation) or test; entries of other splits count as left out. every_reference: a sample for
    each sentence, to train on; else one per pair, to measure on. rows: name (the filename), where,
    references (all sentences), changed (does the pair show a change? Score both kinds apart: one
    sentence is right for all pairs without one). Raises ValueError naming file and row if an entry
    cannot be read.
    """
    split = SPLITS.get(split, split)
    file = find_file(folder, "LevirCCcaptions.json", "Levir-CC-dataset/LevirCCcaptions.json")
    pictures = find_folder(file.parent, "images")
    reading, others = Reading(f"LEVIR-CC {split}"), 0
    for where, record in json_list(file, "images"):
        reading.read += 1
        if take(record, "split", str, where) != split:
            others += 1
            continue
        name = take(record, "filename", str, where)
        references = []
        for sentence in take(record, "sentences", list, where):
            if not isinstance(sentence, dict) or not isinstance(sentence.get("raw"), str):
                raise ValueError(f"{where}: a sentence is {sentence!r:.60}, without a text `raw`")
            if clean(sentence["raw"]):
                references.append(clean(sentence["raw"]))
            else:
                reading.note("empty", name, where, "a sentence is empty")
        if not references:
            reading.note("dropped", name, where, "holds no sentence")
            continue
        images = [pictures / split / letter / name for letter in "AB"]
        flag = take(record, "changeflag", int, where)
        if flag not in (0, 1):
            raise ValueError(f"{where}: changeflag is {flag}, neither 0 nor 1")
        details = {"references": references, "changed": flag == 1}
        reading.rows += [Row(images, IMAGE_TOKEN * 2 + COMPARE_PROMPT, text, "levir_cc", name,
                             where, details)
                         for text in (references if every_reference else references[:1])]
    if others:
        reading.note("left out", f"{others} rows", file.name, f"not of the split {split}", others)
    return reading.finish(most, seed)


# --- TinyEarth in this format --------------------------------------------------------------------

def write_levir_cc(folder: str | Path, table: ImageTable, split: str = "test", pairs: int = 12,
                   seed: int = 0) -> None:
    """Pairs of tiles of one site at 256 x 256, each with five wordings of what changed.

    As in the real file, `raw` starts with a space and ends with " .", and a pair without a change
    has the five fixed sentences. What the folder holds of other splits is kept.
    Raises FileExistsError if it holds another file, or other pairs of this split.
    """
    needs_scenes(table)
    rng, scenes = np.random.default_rng(seed), table.truth.scenes
    file = Path(folder) / "LevirCCcaptions.json"
    held = [record for _, record in json_list(file, "images")] if file.is_file() else []
    entries = []
    for number in range(pairs):
        rows = pair_of_site(table.truth, rng)
        text = describe_change(*(scenes[row] for row in rows)).lower().rstrip(".")
        changed = text != "nothing changed"
        texts = [wording.format(text) for wording in _WORDINGS] if changed else NO_CHANGE
        name = f"{split}_{number:06}.png"
        for letter, row in zip("AB", rows, strict=True):
            picture = table.image(row).resize((SIDE, SIDE), Image.Resampling.NEAREST)
            write_picture(picture, Path(folder) / "images" / split / letter / name)
        entries.append({
            "filepath": split, "filename": name, "imgid": number, "split": split,
            "changeflag": int(changed),
            "sentences": [{"tokens": text.split(), "raw": f" {text} ."} for text in texts]})
    keep_split(file, split, [record for record in held if record["split"] == split], entries)
    others = [record for record in held if record["split"] != split]
    write_json(file, {"images": others + entries}, of_other_splits=True)
