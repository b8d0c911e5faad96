"""Each image encoded once, its features kept in a memory-mapped file."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from vlm_utils.architecture import MultiImageProcessor, MultiImageVLM
from vlm_utils.datasets import ImageTable
from vlm_utils.plots import progress
from vlm_utils.profiles import output_folder, quiet_libraries
from vlm_utils.sources import folders
from vlm_utils.training.fingerprints import features_fingerprint

MARKER = "features.json"
FILE = "features.arrow"


class FeatureTable:
    """Encoded images on disk, read row by row without loading the file (memory-mapped).

    table[[3, 5]] is (2, patches, vision_dim), float16. fingerprint: of images, encoder and
    preprocessing.
    """

    def __init__(self, dataset, patches: int, fingerprint: str | None = None):
        self.patches, self.fingerprint = patches, fingerprint
        self.chunks = [chunk.flatten().to_numpy().reshape(len(chunk), patches, -1)
                       for chunk in dataset.data.column("features").chunks]
        self.starts = np.cumsum([0] + [len(c) for c in self.chunks])

    def __len__(self) -> int:
        return int(self.starts[-1])

    def __getitem__(self, rows: list[int]) -> Tensor:
        where = np.searchsorted(self.starts, rows, side="right") - 1
        return torch.from_numpy(np.stack(
            [self.chunks[c][r - self.starts[c]] for c, r in zip(where, rows, strict=True)]))


def encode_table(table: ImageTable, model: MultiImageVLM, processor: MultiImageProcessor,
                 batch_size: int = 128, folder: Path | None = None) -> FeatureTable:
    """Encode every image of a table once, with `datasets.map`, into a file that is found again.

    Its name is a fingerprint of images, encoder weights and preprocessing: change one of them and
    the features are computed again. So they are if the file is damaged. folder: where it is kept;
    default: features/ in output_folder().
    """
    from datasets import Dataset
    name = features_fingerprint(table, model, processor)
    folder = Path(folder or output_folder() / "features").absolute()
    if not is_whole(folder / name):
        with folders.hold(folder / name, wait=True) as work:
            if not is_whole(folder / name, say=True):      # another process may have made it
                folders.discard(folder / name, MARKER)
                folders.discard(work / name, MARKER)
                folders.make_folder(work / name)
                encode_rows(range(len(table)), table, model, processor, batch_size,
                            work / name / FILE)
                folders.seal(work / name, MARKER, {"images": len(table), "of": table.name})
                folders.move(work / name, folder / name)
        _remove_leftovers(folder)
    encoded = Dataset.from_file(str(folder / name / FILE))
    return FeatureTable(encoded, model.config.patches_per_image, name)


def encode_rows(rows: range, table: ImageTable, model: MultiImageVLM,
                processor: MultiImageProcessor, batch_size: int, path: Path) -> None:
    """Encode these rows of a table into a file, with a progress bar."""
    from datasets import Features, List, Value
    config = model.config
    width = config.patches_per_image * config.vision_config.hidden_size

    def encode(places: list[int]) -> dict[str, np.ndarray]:
        pixels = processor.pixel_values([table.image(rows[place]) for place in places])
        with torch.inference_mode():
            features = model.encode_images(pixels.to(model.device))    # (rows, patches, dim)
        line.update(len(places))
        return {"features": features.half().cpu().numpy().reshape(len(places), -1)}

    with quiet_libraries(), progress(len(rows), f"encoding {table.name}", "images") as line:
        table.dataset.select(rows).map(
            encode, with_indices=True, batched=True, batch_size=batch_size,
            remove_columns=table.dataset.column_names, input_columns=[],
            new_fingerprint=path.parent.name,
            features=Features({"features": List(Value("float16"), length=width)}),
            cache_file_name=str(path))


def is_whole(folder: Path, say: bool = False) -> bool:
    """Are there features, and as they were written? say: print what is wrong with them if not."""
    if not folder.exists():
        return False
    try:
        folders.verify(folder, MARKER)
    except folders.DamagedFiles as error:
        if say:
            print(f"encoding the images again: {error}")
        return False
    return True


def _remove_leftovers(folder: Path) -> None:
    """Half-written features of processes that were killed; those of living ones are locked."""
    for work in folder.glob("*.unfinished"):
        if not re.fullmatch("[0-9a-f]{32}", work.stem):
            continue
        try:
            with folders.hold(work.with_suffix("")):
                folders.discard(work / work.stem, MARKER)
        except folders.FolderInUse:
            pass
