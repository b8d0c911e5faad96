"""Data that does not fit: samples in tar files (shards), read one after another and never all.

The format is WebDataset's, and `datasets` reads it: a sample is the files of one name in a tar,
00017.1.png, 00017.2.png, 00017.json. Files of a tar are read in order, so a shuffle has two parts:
the order of the shards, and a buffer of samples from which they are drawn.
"""

from __future__ import annotations

import copy
import glob
import io
import json
import tarfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from datasets import Features, Image, Value, load_dataset
from datasets.distributed import split_dataset_by_node

from vlm_utils.datasets import Sample, TaskDataset
from vlm_utils.profiles import quiet_libraries
from vlm_utils.sources import folders, images

MARKER = "shards.json"


def write_shards(dataset: TaskDataset, folder: str | Path, shards: int) -> Path:
    """Write the samples into so many tar files of equal length, to within a sample.

    The folder appears when all of it is written. Pictures are stored as PNG: to the bit what the
    table shows. Raises FileExistsError if the folder exists, ValueError for more shards than
    samples, or none.
    """
    folder = Path(folder).absolute()
    if not 1 <= shards <= len(dataset):
        raise ValueError(f"{len(dataset)} samples make 1 to {len(dataset)} shards, not {shards}")
    if folder.exists():
        raise FileExistsError(f"{folder} exists: give another folder, or remove it")
    parts = np.array_split(np.arange(len(dataset)), shards)
    with folders.hold(folder) as work:
        folders.discard(work / folder.name, MARKER)
        folders.make_folder(work / folder.name)
        for number, part in enumerate(parts):
            with tarfile.open(work / folder.name / shard_name(number), "w") as tar:
                for i in part.tolist():
                    _write_sample(tar, f"{i:08d}", dataset.with_images(i))
        folders.seal(work / folder.name, MARKER, {
            "samples": [len(part) for part in parts],
            "most_images": max(recipe.num_images for recipe in dataset.recipes)})
        folders.move(work / folder.name, folder)
    return folder


def shard_name(number: int) -> str:
    return f"shard-{number:05d}.tar"


def _write_sample(tar: tarfile.TarFile, key: str, sample: Sample) -> None:
    text = {"prompt": sample.prompt, "answer": sample.answer, "task": sample.task}
    contents = {"json": json.dumps(text).encode()}
    for k, picture in enumerate(sample.images, start=1):
        stream = io.BytesIO()
        picture.save(stream, "png")
        contents[f"{k}.png"] = stream.getvalue()
    for extension, content in contents.items():
        entry = tarfile.TarInfo(f"{key}.{extension}")
        entry.size = len(content)
        tar.addfile(entry, io.BytesIO(content))


# --- reading --------------------------------------------------------------------------------------

@dataclass(frozen=True)
class StreamSettings:
    """What decides in which order which process reads what."""

    shards: int
    samples: int
    buffer: int
    seed: int
    processes: int


class SampleStream(torch.utils.data.IterableDataset):
    """The samples of a folder of shards, each once per epoch over all processes, in another order
    in each epoch, and never more than `buffer` of them in memory.

    The library's own buffer (`shuffle(buffer_size=...)`) forgets what is in it when a training is
    resumed: these samples are lost. This one is filled, emptied in random order, and filled again;
    to resume, the buffer of that moment is read again. process: the number of this process, of
    `processes`, counted from 0. Raises FileNotFoundError if there are no shards, ValueError for a
    process that does not exist.
    """

    def __init__(self, folder: str | Path, buffer: int = 256, seed: int = 0, process: int = 0,
                 processes: int = 1):
        facts = folders.read_marker(Path(folder), MARKER)
        if facts is None:
            raise FileNotFoundError(f"no shards in {folder}: {MARKER} is missing")
        if not 0 <= process < processes or buffer < 1:
            raise ValueError(f"processes are numbered 0 to {processes - 1} and a buffer holds at "
                             f"least 1 sample: process={process}, buffer={buffer}")
        self.folder, self.process, self.lengths = Path(folder), process, facts["samples"]
        self.settings = StreamSettings(len(self.lengths), sum(self.lengths), buffer, seed,
                                       processes)
        self.features = features_of(facts["most_images"])
        self.epoch, self.window, self.taken, self.before = 0, 0, 0, None

    def __iter__(self) -> Iterator[Sample]:
        """From where it stands to the end of the epoch; the next time, the next epoch."""
        if torch.utils.data.get_worker_info() is not None:
            raise RuntimeError("a SampleStream knows its place in its own process only: "
                               "DataLoader(..., num_workers=0)")
        rows = self.rows_of(self.epoch)
        if self.before is None:
            self.before = state_of(rows)
        else:                       # and not read back: until it reads, it says the beginning
            rows.load_state_dict(copy.deepcopy(self.before))
        unread = iter(rows)
        while window := list(islice(unread, self.settings.buffer)):     # pictures not decoded
            order = self._draw(self.window).permutation(len(window))
            for i in order[self.taken:]:
                self.taken += 1         # before the sample is handed out: nobody may come back
                yield as_sample(window[i], self.folder)
            self.window, self.taken, self.before = self.window + 1, 0, state_of(rows)
        self.epoch, self.window, self.taken, self.before = self.epoch + 1, 0, 0, None

    def rows_of(self, epoch: int):
        """What this process reads in an epoch. All processes order the shards alike."""
        order = np.random.default_rng([self.settings.seed, epoch]).permutation(len(self.lengths))
        files = [glob.escape(str(self.folder.absolute() / shard_name(i))) for i in order]
        with quiet_libraries():
            rows = load_dataset("webdataset", data_files={"train": files}, split="train",
                                streaming=True, features=self.features)
        return split_dataset_by_node(rows, self.process, self.settings.processes)

    def _draw(self, window: int) -> np.random.Generator:
        return np.random.default_rng([self.settings.seed, self.epoch, self.process, window])

    def state_dict(self) -> dict:
        """Where it stands, after the last sample that was handed out, as json can hold it."""
        return {"settings": asdict(self.settings), "process": self.process, "epoch": self.epoch,
                "window": self.window, "taken": self.taken, "before": self.before}

    def load_state_dict(self, state: dict) -> None:
        """Go on from there. Raises ValueError naming what differs: the order would be another."""
        then = state["settings"] | {"process": state["process"]}
        now = asdict(self.settings) | {"process": self.process}
        different = {name: (then[name], value) for name, value in now.items()
                     if then[name] != value}
        if different:
            raise ValueError(f"the stream was another one (then, now): {different}")
        for name in ("epoch", "window", "taken", "before"):
            setattr(self, name, state[name])


def state_of(rows) -> dict:
    """A copy of where the library stands in its rows: it goes on writing in its own."""
    return copy.deepcopy(rows.state_dict())


def features_of(most_images: int) -> Features:
    """What a row holds. Said beforehand, since the library looks at five samples to find out, and
    refuses those of different numbers of images."""
    pictures = {f"{k}.png": Image(decode=False) for k in range(1, most_images + 1)}
    text = {name: Value("string") for name in ("prompt", "answer", "task")}
    return Features(pictures | {"json": text, "__key__": Value("string"),
                                "__url__": Value("string")})


def as_sample(row: dict, folder: Path) -> Sample:
    source = f"{folder.name}, sample {row['__key__']}"
    pictures = [images.open_image(row[name]["bytes"], source) for name in sorted(
        (n for n in row if n.endswith(".png") and row[n] is not None), key=lambda n: int(n[:-4]))]
    return Sample(pictures, **row["json"], source=source)
