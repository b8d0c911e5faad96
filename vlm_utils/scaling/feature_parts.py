"""A cache of features that is made in parts: by several processes, and on after a kill."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from datasets import Dataset, concatenate_datasets

from vlm_utils.architecture import MultiImageProcessor, MultiImageVLM
from vlm_utils.datasets import ImageTable
from vlm_utils.profiles import output_folder
from vlm_utils.sources import folders
from vlm_utils.training.features import FILE, MARKER, FeatureTable, encode_rows, is_whole
from vlm_utils.training.fingerprints import features_fingerprint


def encode_parts(table: ImageTable, model: MultiImageVLM, processor: MultiImageProcessor,
                 images_per_part: int = 1024, batch_size: int = 128,
                 folder: Path | None = None) -> FeatureTable:
    """As `encode_table`, but in parts of so many images, each of them whole or not there at all.

    Call it in as many processes as you have, on as many machines as share the folder: each takes a
    part that nobody has, and returns when all parts are there. A process that was killed loses the
    part that it was working on, and another one takes it. folder: default features/ in
    output_folder(). Raises ValueError for parts of less than one image.
    """
    if images_per_part < 1:
        raise ValueError(f"a part holds at least 1 image, not {images_per_part}")
    name = features_fingerprint(table, model, processor)
    home = Path(folder or output_folder() / "features").absolute() / f"{name}.{images_per_part}"
    parts = {home / f"part-{start:09d}": range(len(table))[start:start + images_per_part]
             for start in range(0, len(table), images_per_part)}
    missing = [part for part in parts if not is_whole(part, say=True)]
    while missing:
        done = [part for part in missing if _make(part, parts[part], table, model, processor,
                                                  batch_size)]
        missing = [part for part in missing if part not in done]
        if missing and not done:        # others are working on all that is left
            time.sleep(0.2)
    encoded = concatenate_datasets([Dataset.from_file(str(part / FILE)) for part in parts])
    return FeatureTable(encoded, model.config.patches_per_image, name)


def _make(part: Path, rows: range, table: ImageTable, model: MultiImageVLM,
          processor: MultiImageProcessor, batch_size: int) -> bool:
    """Make a part, unless somebody has it in hand. Is it there now?"""
    try:
        with folders.hold(part) as work:
            if not is_whole(part):                  # somebody may have made it meanwhile
                folders.discard(part, MARKER)
                folders.discard(work / part.name, MARKER)
                folders.make_folder(work / part.name)
                encode_rows(rows, table, model, processor, batch_size, work / part.name / FILE)
                folders.seal(work / part.name, MARKER, {"rows": [rows.start, rows.stop]})
                folders.move(work / part.name, part)
    except folders.FolderInUse:
        return False
    return True


@dataclass(frozen=True)
class FeatureCosts:
    """What the features of many images take, from what a few took: GB, hours and their price."""

    gigabytes: float
    hours: float
    computing: float        # in the currency of the prices
    storing: float          # a month


def estimate_features(images: int, megabytes_per_image: float, images_per_second: float,
                      price_per_hour: float = 0.0, price_per_gb_month: float = 0.0) -> FeatureCosts:
    """For so many images on one machine; several machines take less time at the same price.

    Raises ValueError for a measurement that is not above zero.
    """
    if megabytes_per_image <= 0 or images_per_second <= 0:
        raise ValueError("measure first: MB per image and images per second are above 0, not "
                         f"{megabytes_per_image} and {images_per_second}")
    gigabytes, hours = images * megabytes_per_image / 1000, images / images_per_second / 3600
    return FeatureCosts(gigabytes, hours, hours * price_per_hour, gigabytes * price_per_gb_month)
