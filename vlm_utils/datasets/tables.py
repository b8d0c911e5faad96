"""Image tables: each image of a split once, with what is known of it."""

from __future__ import annotations

import glob
import json
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

from datasets import Dataset, concatenate_datasets
from PIL import Image
from tokenizers import Tokenizer
from torch import Tensor

from vlm_utils import tiny_earth
from vlm_utils.architecture import as_text
from vlm_utils.datasets.splits import LEAST, choose_rows
from vlm_utils.datasets.subset import choose_subset
from vlm_utils.datasets.truth import Truth
from vlm_utils.profiles import HubRepository, Profile, data_folder, image_folder, quiet_libraries
from vlm_utils.sources import hub, images, picture_folders
from vlm_utils.tiny_earth.turning import turn_image, turn_scene

# A sample may hold two captions and 8 images: what is shorter than this share always fits.
_SHARE_OF_A_CAPTION = 3


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
    pictures. files: the images' names, for errors, if they have any.
    """

    name: str
    dataset: object
    truth: Truth
    orientations: int = 1
    image_features: ImageFeatures | None = field(default=None, repr=False)
    files: Sequence[str] = field(default=(), repr=False)

    def __len__(self) -> int:
        return len(self.dataset)

    def image(self, row: int) -> Image.Image:
        """Image `row`, upright and RGB. Raises ValueError naming it if it cannot be read."""
        stored, name = self.dataset[row]["image"], self.where(row)
        if isinstance(stored, Image.Image):
            picture = images.as_rgb(stored, name)
        else:                                   # not decoded: the bytes, or where they are
            picture = images.open_image(stored["bytes"] or stored["path"], name)
        orientation = row * self.orientations // len(self)
        return turn_image(picture, orientation) if orientation else picture


    def where(self, row: int) -> str:
        """A row's name in errors: the table, the row and, if it has one, its file."""
        file = self.files[row % len(self.files)] if self.files else ""
        return f"{self.name} row {row}" + (f" ({file})" if file else "")


def load_image_table(profile: Profile, split: str, with_truth: bool = False) -> ImageTable:
    """The images of a split: the user's (VLM_IMAGES), else those of the profile, or the subset of
    them that the profile asks for (VLM_SUBSET).

    with_truth: only images of which something is known, to train and to measure on: for a folder
    without captions, those of the profile instead.
    """
    if split not in ("train", "validation", "test"):
        raise ValueError(f"split is train, validation or test, not {split!r}")
    table = _whole_table(profile, split, with_truth)
    return table if profile.subset is None else take_subset(table, profile.subset)


def load_series_table(split: str) -> ImageTable:
    """TinyEarth's images of a split, whatever the profile, VLM_IMAGES and VLM_SUBSET: the only data
    here that hold dated series of which the truth is known.
    """
    return _tiny_earth_table(split)


def load_profile_table(profile: Profile, split: str, images: int | None = None) -> ImageTable:
    """The images that a profile's own model was made for, whatever VLM_IMAGES says; of them, at
    most so many, and no more than the profile's subset has.
    """
    table = _profile_table(profile, split)
    most = min(len(table), images or len(table), profile.subset or len(table))
    return take_subset(table, most)


def take_subset(table: ImageTable, images: int) -> ImageTable:
    """A table with so many of its images, or all if it has no more: see `choose_subset`."""
    if images >= len(table):
        return table
    rows, sites = choose_subset(table.truth.sites, len(table), images)
    truth = table.truth
    truth = Truth([truth.scenes[row] for row in rows], [truth.captions[row] for row in rows], sites,
                  [truth.dates[row] for row in rows] if truth.dates else (),
                  [truth.conditions[row] for row in rows] if truth.conditions else ())
    return replace(table, name=f"{table.name}, {images} images", dataset=table.dataset.select(rows),
                   truth=truth, files=[table.files[row] for row in rows] if table.files else ())


def _whole_table(profile: Profile, split: str, with_truth: bool) -> ImageTable:
    folder = image_folder()
    if folder is not None:
        table = _folder_table(profile, folder, split)
        if table.truth.has_captions or not with_truth:
            return table
        warnings.warn(f"{folder.name} has no captions: training and measuring use the images of "
                      "the profile", stacklevel=3)
    return _profile_table(profile, split)


def _profile_table(profile: Profile, split: str) -> ImageTable:
    if profile.dataset is not None:
        return _captioned_table(_hub_images(profile.dataset, split), split)
    return _tiny_earth_table(split)


def add_orientations(table: ImageTable, orientations: int) -> ImageTable:
    """The same images in 1 to 8 orientations, their ground truth turned with them.

    Row i + k * images is image i in orientation k. A view from above has no up or down, so each
    turned tile is as true as the first. Images without scenes are left as they are: captions
    cannot be turned. Raises ValueError for a table that already has several orientations.
    """
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
                      Truth(scenes, captions, sites, [*truth.dates] * orientations,
                            [*truth.conditions] * orientations), orientations)


def _tiny_earth_table(split: str) -> ImageTable:
    """Tiles of single places, then all frames of all sequences, each image once."""
    singles = tiny_earth.load_scenes(split)
    series = tiny_earth.load_sequences(split)
    frames, lengths = tiny_earth.frames_as_rows(series)
    scenes = [tiny_earth.Scene.from_json(text) for text in singles["scene"]]
    columns = (singles[column] for column in _caption_columns(singles))
    captions = [list(row) for row in zip(*columns, strict=True)]
    for row in series["scenes"]:
        scenes += [tiny_earth.Scene.from_json(text) for text in row]
    captions += [tiny_earth.captions(scene) for scene in scenes[len(singles):]]
    start, sites = len(singles), []
    for length in lengths:
        sites.append(tuple(range(start, start + length)))
        start += length
    dataset = concatenate_datasets([singles.select_columns(["image"]), frames])
    dates = [""] * len(singles) + [day for days in series["dates"] for day in days]
    conditions = [tiny_earth.Conditions()] * len(singles) + [
        tiny_earth.Conditions.from_json(text) for row in series["conditions"] for text in row]
    return ImageTable(f"TinyEarth {split}", dataset,
                      Truth(scenes, captions, sites, dates, conditions))


def _hub_images(repository: HubRepository, split: str) -> Dataset:
    """One split of a data set on the hub, out of the local cache if it is there."""
    files = sorted((hub.fetch(repository) / "data").glob(f"{split}-*.parquet"))
    if not files:
        raise FileNotFoundError(f"{repository.repo_id}: no file data/{split}-*.parquet")
    # `datasets` takes names for patterns: a bracket in a folder's name must stand for itself.
    with quiet_libraries():
        return Dataset.from_parquet([glob.escape(str(file)) for file in files])


def _captioned_table(dataset: Dataset, name: str, files: Sequence[str] = ()) -> ImageTable:
    """Images and captions; what is a command to the model is plain text in a caption."""
    columns = (dataset[column] for column in _caption_columns(dataset))
    captions = [[as_text(text) for text in row if text] for row in zip(*columns, strict=True)]
    truth = Truth([None] * len(dataset), captions, [(i,) for i in range(len(dataset))])
    return ImageTable(name, dataset, truth, files=files)


def _caption_columns(dataset: Dataset) -> list[str]:
    """caption_0, caption_1 ... in order, as many as there are."""
    found = [name for name in dataset.column_names if re.fullmatch(r"caption_\d+", name)]
    return sorted(found, key=lambda name: int(name.partition("_")[2]))


def _folder_table(profile: Profile, folder: Path, split: str) -> ImageTable:
    """A user's folder: its own splits, or a quarter kept for testing; frames stay together."""
    pictures = picture_folders.list_pictures(folder)
    captioned = bool(pictures[0].captions)
    if captioned:
        _check_lengths(profile, pictures)
    elif any(picture.split == split for picture in pictures):
        pictures = [picture for picture in pictures if picture.split == split]
    if not captioned and len(pictures) < LEAST:
        raise ValueError(f"{folder} holds {len(pictures)} frames without captions: the lessons "
                         f"need at least {LEAST}; to ask about fewer, see \"In your own code\" in "
                         "the README")
    contents = picture_folders.examine(pictures)
    dataset = picture_folders.as_dataset(folder, pictures, contents)
    files = [str(picture.file.relative_to(folder.resolve())) for picture in pictures]
    if not captioned:
        truth = Truth([None] * len(pictures), [[]] * len(pictures),
                      picture_folders.sites_of(pictures),
                      [picture.date or "" for picture in pictures])
        return ImageTable(folder.name, dataset, truth, files=files)
    parts = choose_rows(folder, pictures, contents)
    tables = {name: _captioned_table(dataset.select(rows), f"{folder.name} {name}",
                                     [files[row] for row in rows])
              for name, rows in parts.items()}
    for name in ("train", "test"):
        _check_captions(folder, tables[name])
    return tables[split]


def _check_captions(folder: Path, table: ImageTable) -> None:
    """Can "Which image shows: ...?" be asked of each image, with an unlike one to spare?"""
    truth = table.truth
    shared, row = max((len(truth.alike(row)), row) for row in truth.rows_of_each_kind())
    if len(table) - shared < 2:
        raise ValueError(
            f"{folder}: of the {len(table)} images of {table.name}, {shared} share a caption "
            f"({truth.captions[row][0][:60]!r} is one of theirs): at least 2 must show something "
            "else, as lessons ask which image is meant: add images of other things")


def _check_lengths(profile: Profile, pictures: Sequence[picture_folders.Picture]) -> None:
    """Does the profile's model have room for every caption? Raises ValueError naming the row."""
    found = _tokenizer(profile)
    if found is None:               # not there yet: a sample that is too long is refused later
        return
    path, positions = found
    most, tokenizer = positions // _SHARE_OF_A_CAPTION, None
    for picture in pictures:
        for caption in picture.captions:
            if len(caption.encode()) <= most:           # a token is at least one byte
                continue
            tokenizer = tokenizer or Tokenizer.from_file(str(path))
            tokens = len(tokenizer.encode(caption, add_special_tokens=False).ids)
            if tokens > most:
                raise ValueError(f"{picture.where}: the caption {caption[:40]!r}... has {tokens} "
                                 f"tokens, more than the {most} that the model of profile "
                                 f"{profile.name} has room for: shorten it")


def _tokenizer(profile: Profile) -> tuple[Path, int] | None:
    """The tokenizer file of a profile's model, and how many tokens the model can hold."""
    if profile.base_model is not None:
        folder, file, name = (data_folder() / profile.base_model, "multi_image_processor.json",
                              "max_length")
    else:
        folder, file, name = (hub.in_cache(profile.language_model), "config.json",
                              "max_position_embeddings")
    if folder is None:
        return None
    return folder / "tokenizer.json", json.loads((folder / file).read_text())[name]
