"""Places that no table in data/ holds: TinyEarth is drawn by a program, so more cost minutes."""

from __future__ import annotations

import glob

from datasets import Dataset

from vlm_utils.datasets import ImageTable, Truth
from vlm_utils.profiles import output_folder, quiet_libraries
from vlm_utils.tiny_earth import COUNTS, Conditions, Scene, build, captions, frames_as_rows


def more_series(places: int, split: str = "train") -> ImageTable:
    """The frames of so many further series of a split: those that follow the stored ones.

    The same for everyone, as every row of TinyEarth is drawn from its own number. They are drawn
    once, about 15 places a second, and kept in more_places/ in output_folder().
    """
    folder = output_folder() / "more_places" / f"{split}_{places}"
    file = folder / "tiny_earth" / "sequences" / f"{split}.parquet"
    if not file.is_file():
        build(folder, {"sequences": {split: places}}, first=COUNTS["sequences"][split])
    with quiet_libraries():     # `datasets` takes names for patterns: a bracket stands for itself
        series = Dataset.from_parquet(glob.escape(str(file)))
    frames, lengths = frames_as_rows(series)
    sites, start = [], 0
    for length in lengths:
        sites.append(tuple(range(start, start + length)))
        start += length
    scenes = [Scene.from_json(text) for row in series["scenes"] for text in row]
    return ImageTable(f"TinyEarth {split}, {places} more places", frames, Truth(
        scenes, [captions(scene) for scene in scenes], sites,
        [day for days in series["dates"] for day in days],
        [Conditions.from_json(text) for row in series["conditions"] for text in row]))
