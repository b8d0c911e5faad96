"""Which text sees which image, and the images of a batch laid out by sample."""

from __future__ import annotations

import torch
from torch import Tensor


def image_mask(input_ids: Tensor, image_token_id: int, kind: str = "preceding",
               images: int | None = None) -> Tensor:
    """Which images each place of the text sees: (batch, length, images), bool.

    input_ids: (batch, length), with one placeholder for each image. kind: "preceding": all images
    whose placeholder has come; "immediate": the last of them only (Flamingo). images: of the sample
    that has most, if that is known.
    """
    come = (input_ids == image_token_id).cumsum(dim=1)          # (batch, length): images so far
    images = int(come[:, -1].max()) if images is None else images
    number = torch.arange(1, images + 1, device=input_ids.device)
    if kind == "immediate":
        return come.unsqueeze(-1) == number
    return come.unsqueeze(-1) >= number


def stack_by_sample(states: Tensor, counts: Tensor) -> Tensor:
    """The flat stack of a batch's images as one row of images per sample, zeros where none is.

    states: (num_images, vectors, dim), the images of all samples one after another. counts:
    (batch,), images of each sample. Returns (batch, most images of a sample, vectors, dim).
    """
    most = int(counts.max())
    rows = states.new_zeros(len(counts), most, *states.shape[1:])
    there = torch.arange(most, device=states.device) < counts[:, None]      # (batch, most)
    rows[there] = states
    return rows
