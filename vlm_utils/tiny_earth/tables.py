"""The stored tables of TinyEarth, opened without a network."""

from __future__ import annotations

import glob

from vlm_utils.profiles import data_folder, quiet_libraries

SPLITS = ("train", "validation", "test")
REBUILD = "python -m vlm_utils.tiny_earth"


def load_scenes(split: str):
    """The single tiles of a split as a `datasets.Dataset`, with no network.

    Columns: site, image (PIL, 64x64), caption_0 ... caption_4, scene (JSON for `Scene`).
    """
    return _load("scenes", split)


def load_sequences(split: str):
    """The dated sequences of a split as a `datasets.Dataset`, with no network.

    Columns: site, frames (2 to 16 PIL images), dates (ISO), scenes (JSON for `Scene`), conditions
    (JSON for `Conditions`: season, cloud, repeats), caption (`describe_sequence` of the scenes),
    event (one of EVENTS).
    """
    return _load("sequences", split)


def frames_as_rows(sequences):
    """The frames of a table of sequences one below the other, each of them as it is stored.

    Returns a `datasets.Dataset` with the column image, and the number of frames of each sequence.
    """
    import pyarrow as pa
    from datasets import Dataset, DatasetInfo, Features, Image

    frames = sequences.with_format("arrow")[:]["frames"]
    frames = pa.chunked_array([chunk.flatten() for chunk in frames.chunks], frames.type.value_type)
    info = DatasetInfo(features=Features({"image": Image()}))
    lengths = [len(dates) for dates in sequences["dates"]]
    return Dataset(pa.table({"image": frames}), info=info), lengths


def _load(table, split):
    from datasets import Dataset

    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}, not one of {SPLITS}")
    path = data_folder() / "tiny_earth" / table / f"{split}.parquet"
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}; rebuild it with: {REBUILD}")
    # `datasets` takes names for patterns: a bracket in a folder's name must stand for itself.
    with quiet_libraries():
        return Dataset.from_parquet(glob.escape(str(path)))
