"""Every image of a table as bytes at the encoder's size: what an encoder is trained on."""

from __future__ import annotations

import torch
from torch import Tensor

from vlm_utils.architecture import MultiImageProcessor
from vlm_utils.datasets import ImageTable


class PixelTable:
    """Every image of a table at the encoder's size, kept as bytes; what the encoder learns from.

    table[[3, 5]] is (2, 3, height, width), float32, normalised as the processor does.
    """

    def __init__(self, table: ImageTable, processor: MultiImageProcessor):
        settings = processor.image_processor
        self.pixels = torch.cat([
            settings([table.image(row) for row in range(start, min(start + 512, len(table)))],
                     do_rescale=False, do_normalize=False, return_tensors="pt")["pixel_values"]
            for start in range(0, len(table), 512)])
        self.mean = 255 * torch.tensor(settings.image_mean).view(3, 1, 1)
        self.std = 255 * torch.tensor(settings.image_std).view(3, 1, 1)

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, rows: list[int]) -> Tensor:
        return (self.pixels[rows].float() - self.mean) / self.std
