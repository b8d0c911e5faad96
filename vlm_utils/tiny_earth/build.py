"""The rows of TinyEarth's tables, and the files that hold them."""

from __future__ import annotations

import io
import time
from datetime import date, timedelta
from pathlib import Path

import numpy as np

from vlm_utils.tiny_earth.drawing import render, with_boxes
from vlm_utils.tiny_earth.sampling import pick, possible_events, sample_scene, sample_sequence
from vlm_utils.tiny_earth.sentences import captions, describe_sequence
from vlm_utils.tiny_earth.tables import SPLITS
from vlm_utils.tiny_earth.weather import sample_conditions

VERSION = 5  # of the random numbers: another version is another world
COUNTS = {"scenes": {"train": 5000, "validation": 500, "test": 500},
          "sequences": {"train": 2000, "validation": 200, "test": 600}}
# Frames of a sequence, and how often: six in ten are short, and of the long ones most have 16.
LENGTHS = dict(zip(range(2, 17), (
    *(0.6 * share for share in (0.12, 0.14, 0.14, 0.14, 0.13, 0.13, 0.2)),
    *(0.4 * share for share in (0.06, 0.06, 0.08, 0.12, 0.08, 0.08, 0.12, 0.4))), strict=True))
WEBP_QUALITY = 80


def scene_row(split: str, index: int) -> dict:
    """Row `index` of a split as `load_scenes` has it, its image a (64, 64, 3) uint8 array."""
    rng, site, site_seed = _row_seeds("scenes", split, index)
    scene = with_boxes(sample_scene(rng), site_seed)
    row = {"site": site, "image": render(scene, site_seed, _light_seed(rng))}
    row |= {f"caption_{number}": text for number, text in enumerate(captions(scene))}
    return row | {"scene": scene.to_json()}


def sequence_row(split: str, index: int) -> dict:
    """Row `index` of a split as `load_sequences` has it, its frames (64, 64, 3) uint8 arrays."""
    rng, site, site_seed = _row_seeds("sequences", split, index)
    num_frames = int(rng.choice(list(LENGTHS), p=list(LENGTHS.values())))
    event = pick(rng, possible_events(num_frames))
    scenes = [with_boxes(scene, site_seed) for scene in sample_sequence(rng, num_frames, event)]
    days = rng.integers(0, 3000) + np.cumsum(rng.integers(6, 120, size=num_frames))
    dates = [str(date(2014, 1, 1) + timedelta(days=int(day))) for day in days]
    light_seeds = [_light_seed(rng) for _ in scenes]
    conditions = sample_conditions(rng, scenes, dates, site_seed, light_seeds)
    return {"site": site,
            "frames": [render(scene, site_seed, light_seed, taken.season, taken.cloud)
                       for scene, light_seed, taken
                       in zip(scenes, light_seeds, conditions, strict=True)],
            "dates": dates,
            "scenes": [scene.to_json() for scene in scenes],
            "conditions": [taken.to_json() for taken in conditions],
            "caption": describe_sequence(scenes),
            "event": event}


def build(folder: Path, counts: dict = COUNTS, first: int = 0) -> None:
    """Write the tables under folder/tiny_earth, one parquet file for each table and split.

    counts has the number of rows as counts[table][split]. first: the number of the first row; from
    COUNTS[table][split] on, they show places that are not in the stored tables. Each file replaces
    an older one at once, when it is complete. Prints a line for each file.
    """
    import pyarrow.parquet
    from datasets import Dataset, Features, Image, List, Value

    text = Value("string")
    schemas = {
        "scenes": Features(
            {"site": text, "image": Image()} | {f"caption_{number}": text for number in range(5)}
            | {"scene": text}),
        "sequences": Features(
            {"site": text, "frames": List(Image()), "dates": List(text), "scenes": List(text),
             "conditions": List(text), "caption": text, "event": text}),
    }
    for table, splits in counts.items():
        for split, num_rows in splits.items():
            start = time.perf_counter()
            path = Path(folder) / "tiny_earth" / table / f"{split}.parquet"
            path.parent.mkdir(parents=True, exist_ok=True)
            numbers = range(first, first + num_rows)
            rows = Dataset.from_list([_encoded_row(table, split, index) for index in numbers],
                                     features=schemas[table])
            unfinished = path.with_suffix(".unfinished")
            pyarrow.parquet.write_table(rows.data.table, unfinished, compression="zstd")
            unfinished.replace(path)
            print(f"{table}/{split}.parquet: {num_rows} rows, {path.stat().st_size / 1e6:.2f} MB, "
                  f"{time.perf_counter() - start:.0f} s", flush=True)


def _encoded_row(table, split, index):
    if table == "scenes":
        row = scene_row(split, index)
        return row | {"image": _encode(row["image"])}
    row = sequence_row(split, index)
    return row | {"frames": [_encode(frame) for frame in row["frames"]]}


def _encode(pixels):
    from PIL import Image

    file = io.BytesIO()
    # Sharp chroma keeps the colour of things a few pixels wide.
    Image.fromarray(pixels).save(
        file, "WEBP", quality=WEBP_QUALITY, method=6, use_sharp_yuv=True)
    return {"bytes": file.getvalue(), "path": None}


def _row_seeds(table, split, index):
    """A row's own random numbers, the name of its site, and a site seed that no other has."""
    numbers = (list(COUNTS).index(table), SPLITS.index(split), index)
    site_seed = (3 * numbers[0] + numbers[1]) * 1_000_000 + index
    name = f"{split}-{table.removesuffix('s')}-{index:06d}"
    return np.random.default_rng([VERSION, *numbers]), name, site_seed


def _light_seed(rng):
    return int(rng.integers(2 ** 32))
