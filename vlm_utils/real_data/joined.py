"""Two tables become one: what is new, and what must not be forgotten, in the same batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from datasets import concatenate_datasets
from PIL import Image
from torch import Tensor

from vlm_utils.datasets import ImageFeatures, ImageTable, TaskDataset, Truth


class JoinedFeatures:
    """The rows of several feature tables, one table after another."""

    def __init__(self, parts: Sequence[ImageFeatures]):
        self.parts, self.starts = parts, np.cumsum([0, *map(len, parts)])
        marks = [getattr(part, "fingerprint", None) for part in parts]
        self.fingerprint = "+".join(marks) if all(marks) else None

    def __len__(self) -> int:
        return int(self.starts[-1])

    def __getitem__(self, rows: list[int]) -> Tensor:
        """(len(rows), patches, vision_dim)"""
        which = np.searchsorted(self.starts, rows, side="right") - 1
        return torch.stack([self.parts[p][[row - int(self.starts[p])]][0]
                            for p, row in zip(which, rows, strict=True)])


@dataclass(eq=False)
class JoinedTable(ImageTable):
    """The rows of several tables, each turned as its own table says."""

    parts: Sequence[ImageTable] = ()

    def __post_init__(self):
        self.starts = np.cumsum([0, *map(len, self.parts)])

    def _part(self, row: int) -> tuple[ImageTable, int]:
        part = int(np.searchsorted(self.starts, row, side="right")) - 1
        return self.parts[part], row - int(self.starts[part])

    def image(self, row: int) -> Image.Image:
        """Image `row`, upright and RGB. Raises ValueError naming it if it cannot be read."""
        table, inside = self._part(row)
        return table.image(inside)

    def where(self, row: int) -> str:
        """A row's name in errors: that in its own table."""
        table, inside = self._part(row)
        return table.where(inside)


def join_tables(tables: Sequence[ImageTable]) -> JoinedTable:
    """The rows of each table, one table after another, to train or to encode together.

    What is known of them (`truth`) stays with each: build samples from the tables, and join those.
    Raises ValueError if only some of the tables are encoded.
    """
    encoded = [table.image_features for table in tables]
    if any(each is None for each in encoded) and any(each is not None for each in encoded):
        bare = next(table.name for table in tables if table.image_features is None)
        raise ValueError(f"{bare} is not encoded and another table is: encode all of them with "
                         "the same encoder, or none")
    known = [table.truth for table in tables]
    truth = Truth([scene for each in known for scene in each.scenes],
                  [texts for each in known for texts in each.captions], [])
    return JoinedTable(
        " and ".join(table.name for table in tables), concatenate_datasets(
            [_plain(table) for table in tables]), truth,
        image_features=None if encoded[0] is None else JoinedFeatures(encoded),
        parts=tuple(tables))


def _plain(table: ImageTable):
    """Only the pictures, as they are stored."""
    from datasets import Image as ImageFeature
    return table.dataset.select_columns(["image"]).cast_column("image", ImageFeature(decode=False))


def join_datasets(*datasets: TaskDataset) -> TaskDataset:
    """The samples of each data set over one joined table: training mixes them in every batch.

    Raises ValueError if only some of the tables are encoded.
    """
    table = join_tables([dataset.table for dataset in datasets])
    recipes = [replace(recipe, rows=tuple(row + int(start) for row in recipe.rows))
               for dataset, start in zip(datasets, table.starts, strict=False)
               for recipe in dataset.recipes]
    return TaskDataset(table, recipes)


def turned_copies(table: ImageTable, orientations: int) -> ImageTable:
    """The same images in 1 to 8 orientations, each with the captions it has.

    Only for views from above whose captions name no direction, as class names: "left of the road"
    would be wrong of a turned image, and a photograph has its sky above. With scenes, captions can
    be turned too: `add_orientations`. Raises ValueError for a table with scenes or with several
    orientations, and for a caption that names a direction.
    """
    if table.truth.has_scenes or table.orientations > 1:
        raise ValueError(f"{table.name} has scenes, or several orientations: use add_orientations "
                         "on the table that load_image_table returns")
    for row, captions in enumerate(table.truth.captions):
        for text in captions:
            if found := DIRECTIONS & set(text.lower().replace(".", " ").split()):
                raise ValueError(f"{table.where(row)}: its caption says {sorted(found)[0]!r}, "
                                 "which is wrong of the turned image: train it unturned")
    truth, count = table.truth, len(table)
    sites = [tuple(row + k * count for k in range(orientations) for row in rows)
             for rows in truth.sites]
    return ImageTable(
        f"{table.name}, {orientations} orientations",
        concatenate_datasets([table.dataset] * orientations),
        Truth([*truth.scenes] * orientations, [*truth.captions] * orientations, sites),
        orientations, files=table.files)


DIRECTIONS = {"left", "right", "top", "bottom", "above", "below", "upper", "lower", "north",
              "south", "east", "west", "upside"}
