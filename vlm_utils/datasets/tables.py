"""Image tables: each image of a split once, with what is known of it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from vlm_utils import tiny_earth
from vlm_utils.datasets.truth import Truth
from vlm_utils.profiles import Profile, image_folder
from vlm_utils.sources import images
from vlm_utils.tiny_earth.turning import turn_image, turn_scene

CAPTIONS = tuple(f"caption_{i}" for i in range(5))


@dataclass(eq=False)
class ImageTable:
    """One split: `dataset` with an `image` column, each image once, and what is known of it."""

    name: str
    dataset: object
    truth: Truth
    turns: int = 1  # orientations; see add_turns

    def __len__(self) -> int:
        return len(self.dataset)

    def image(self, row: int) -> Image.Image:
        picture = images.as_rgb(self.dataset[row]["image"], f"{self.name} row {row}")
        turn = row * self.turns // len(self)
        return turn_image(picture, turn) if turn else picture


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
        print(f"{folder.name} has no captions: training and measuring use the profile's images")
    if profile.dataset is not None:
        return _captioned_table(images.load_hub_images(profile.dataset, split), split)
    return _tiny_earth_table(split)


def add_turns(table: ImageTable, turns: int) -> ImageTable:
    """The same images in 1 to 8 orientations, their ground truth turned with them.

    Row i + turn * images is image i turned. A view from above has no up or down, so each turned
    tile is as true as the first. Images without scenes are left as they are: captions cannot be
    turned.
    """
    from datasets import concatenate_datasets
    if turns == 1 or not table.truth.has_scenes:
        return table
    truth, count = table.truth, len(table)
    scenes = [turn_scene(scene, turn) for turn in range(turns) for scene in truth.scenes]
    captions = [*truth.captions, *(tiny_earth.captions(scene) for scene in scenes[count:])]
    places = [tuple(row + turn * count for row in rows)
              for turn in range(turns) for rows in truth.places]
    return ImageTable(f"{table.name}, {turns} orientations",
                      concatenate_datasets([table.dataset] * turns),
                      Truth(scenes, captions, places), turns)


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
    start, places = len(singles), []
    for length in lengths:
        places.append(tuple(range(start, start + length)))
        start += length
    dataset = concatenate_datasets([singles.select_columns(["image"]), frames])
    return ImageTable(f"TinyEarth {split}", dataset, Truth(scenes, captions, places))


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
