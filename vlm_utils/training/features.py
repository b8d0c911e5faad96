"""Each image encoded once, its features kept in a memory-mapped file."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from vlm_utils.architecture import MultiImageProcessor, MultiImageVLM
from vlm_utils.datasets import ImageTable
from vlm_utils.profiles import output_folder


class FeatureTable:
    """Encoded images on disk, read row by row without loading the file (memory-mapped).

    table[[3, 5]] is (2, patches, vision_dim), float16.
    """

    def __init__(self, dataset, patches: int):
        self.patches = patches
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

    The file is named after images, encoder weights and preprocessing: change one of them and the
    features are computed again. folder: where it is kept; default: features/ in output_folder().
    """
    from datasets import Features, List, Value
    name = _fingerprint(table, model, processor)
    config = model.config
    width = config.patches_per_image * config.vision_config.hidden_size
    folder = folder or output_folder() / "features"
    folder.mkdir(parents=True, exist_ok=True)

    def encode(rows: list[int]) -> dict[str, np.ndarray]:
        pixels = processor.pixel_values([table.image(row) for row in rows])
        with torch.inference_mode():
            features = model.encode_images(pixels.to(model.device))    # (rows, patches, dim)
        return {"features": features.half().cpu().numpy().reshape(len(rows), -1)}

    encoded = table.dataset.map(
        encode, with_indices=True, batched=True, batch_size=batch_size,
        remove_columns=table.dataset.column_names, input_columns=[], new_fingerprint=name,
        features=Features({"features": List(Value("float16"), length=width)}),
        cache_file_name=str(folder / f"{name}.arrow"), desc=f"encoding {table.name}")
    return FeatureTable(encoded, config.patches_per_image)


def _fingerprint(table: ImageTable, model: MultiImageVLM, processor: MultiImageProcessor) -> str:
    digest = hashlib.sha256(table.dataset._fingerprint.encode())
    for name, weight in sorted(model.vision_encoder.state_dict().items()):
        digest.update(name.encode())
        digest.update(weight.detach().float().cpu().numpy().tobytes())
    settings = processor.image_processor.to_dict()
    digest.update(json.dumps(settings, sort_keys=True, default=str).encode())
    return digest.hexdigest()[:24]
