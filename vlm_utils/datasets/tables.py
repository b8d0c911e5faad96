"""Image tables: each image of a split once, with what is known of it."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from PIL import Image
from torch import Tensor

from vlm_utils import tiny_earth
from vlm_utils.datasets.truth import Truth
from vlm_utils.profiles import Profile, image_folder
from vlm_utils.sources import images
from vlm_utils.tiny_earth.turning import turn_image, turn_scene

CAPTIONS = tuple(f"caption_{i}" for i in range(5))


class ImageFeatures(Protocol):
    """Encoded images, one row for each row of an image table: what `encode_table` returns."""

    def __len__(self) -> int: ...

    def __getitem__(self, rows: list[int]) -> Tensor:
        """(len(rows), patches, vision_dim)"""


@dataclass(eq=False)
class ImageTable:
    """One split: `dataset` with an `image` column, each image once, and what is known of it.

    orientations: in how many each image stands in the table (`add_orientations`).
    image_features: the encoded images, once they are known; samples then bring these instead of
    pictures.
    """

    name: str
    dataset: object
    truth: Truth
    orientations: int = 1
    image_features: ImageFeatures | None = field(default=None, repr=False)

    def __len__(self) -> int:
        return len(self.dataset)

    def image(self, row: int) -> Image.Image:
        picture = images.as_rgb(self.dataset[row]["image"], f"{self.name} row {row}")
        orientation = row * self.orientations // len(self)
        return turn_image(picture, orientation) if orientation else picture


def load_image_table(profile: Profile, split: str, with_truth: bool = False) -> ImageTable:
    """The images of a split: the user's (VLM_IMAGES), else those of the profile.

    with_truth: only images of which something is known, to train and to measure on: for a folder
    without captions, those of the profile instead.
    """
    if split not in ("train", "validation", "test"):
        raise ValueError(f"split is train, validation or test, not {split!r}")
    folder = image_folder()
    if folder is not None:
        table = _folder_table(folder, split)
        if table.truth.has_captions or not with_truth:
            return table
        warnings.warn(f"{folder.name} has no captions: training and measuring use the images of "
                      "the profile", stacklevel=2)
    if profile.dataset is not None:
        return _captioned_table(images.load_hub_images(profile.dataset, split), split)
    return _tiny_earth_table(split)


def add_orientations(table: ImageTable, orientations: int) -> ImageTable:
    """The same images in 1 to 8 orientations, their ground truth turned with them.

    Row i + k * images is image i in orientation k. A view from above has no up or down, so each
    turned tile is as true as the first. Images without scenes are left as they are: captions
    cannot be turned. Raises ValueError for a table that already has several orientations.
    """
    from datasets import concatenate_datasets
    if table.orientations > 1:
        raise ValueError(f"{table.name} already holds each image in {table.orientations} "
                         "orientations: start from the table that load_image_table returns")
    if orientations == 1 or not table.truth.has_scenes:
        return table
    truth, count = table.truth, len(table)
    scenes = [turn_scene(scene, k) for k in range(orientations) for scene in truth.scenes]
    captions = [*truth.captions, *(tiny_earth.captions(scene) for scene in scenes[count:])]
    sites = [tuple(row + k * count for row in rows)
             for k in range(orientations) for rows in truth.sites]
    return ImageTable(f"{table.name}, {orientations} orientations",
                      concatenate_datasets([table.dataset] * orientations),
                      Truth(scenes, captions, sites), orientations)


def _tiny_earth_table(split: str) -> ImageTable:
    """Tiles of single places, then all frames of all sequences, each image once."""
    from datasets import concatenate_datasets
    singles = tiny_earth.load_scenes(split)
    series = tiny_earth.load_sequences(split)
    frames, lengths = tiny_earth.frames_as_rows(series)
    scenes = [tiny_earth.Scene.from_json(text) for text in singles["scene"]]
    captions = [list(row) for row in zip(*(singles[c] for c in CAPTIONS), strict=True)]
    for row in series["scenes"]:
        scenes += [tiny_earth.Scene.from_json(text) for text in row]
    captions += [tiny_earth.captions(scene) for scene in scenes[len(singles):]]
    start, sites = len(singles), []
    for length in lengths:
        sites.append(tuple(range(start, start + length)))
        start += length
    dataset = concatenate_datasets([singles.select_columns(["image"]), frames])
    return ImageTable(f"TinyEarth {split}", dataset, Truth(scenes, captions, sites))


def _captioned_table(dataset, split: str) -> ImageTable:
    columns = [c for c in CAPTIONS if c in dataset.column_names]
    captions = [[t for t in row if t] for row in zip(*(dataset[c] for c in columns), strict=True)]
    truth = Truth([None] * len(dataset), captions, [(i,) for i in range(len(dataset))])
    return ImageTable(split, dataset, truth)


def _folder_table(folder, split: str) -> ImageTable:
    """A user's folder: with captions, a quarter is kept for testing; frames stay together."""
    dataset = images.load_image_folder(folder)
    if "caption_0" not in dataset.column_names:
        rows = tuple(range(len(dataset)))
        return ImageTable(folder.name, dataset, Truth([None] * len(rows), [[]] * len(rows), [rows]))
    order = np.random.default_rng(0).permutation(len(dataset))
    held_out = max(1, len(dataset) // 4)
    if len(dataset) - held_out < 2:
        raise ValueError(f"{folder} holds {len(dataset)} images: at least 3 are needed, 2 to train "
                         "on and 1 to test on")
    chosen = order[held_out:] if split == "train" else order[:held_out]
    table = _captioned_table(dataset.select(sorted(int(i) for i in chosen)), split)
    table.name = f"{folder.name} {split}"
    return table
