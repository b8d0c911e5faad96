"""Lesson 03: samples with different numbers of images in one batch.

Images are stacked flat, so none has to be invented; text is padded to the longest of the batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Sampler

from vlm_utils.architecture import IGNORED, IMAGE_TOKEN
from vlm_utils.datasets import Sample


def collate(encoded: Sequence[dict], pad_token_id: int, left: bool = False) -> dict[str, Tensor]:
    """A batch of encoded samples (`encode_sample`), each with as many images as it has.

    Returns input_ids, attention_mask and, in training, labels: (batch, length), padded to the
    longest sample, on the right to train and on the left to generate. The images of all samples,
    in order, are one flat stack: pixel_values (num_images, 3, height, width), or image_features
    (num_images, patches, dim) if they were encoded beforehand. No padding image is made.
    """
    if not encoded:
        raise ValueError("an empty batch: give at least one sample")
    longest = max(len(sample["input_ids"]) for sample in encoded)
    fillers = {"input_ids": pad_token_id, "attention_mask": 0, "labels": IGNORED}
    padded: dict[str, list[list[int]]] = {name: [] for name in fillers}
    for sample in encoded:
        sample = sample | {"attention_mask": [1] * len(sample["input_ids"])}
        for name in fillers.keys() & sample.keys():         # prompts alone have no labels
            padding = [fillers[name]] * (longest - len(sample[name]))
            row = padding + sample[name] if left else sample[name] + padding
            padded[name].append(row)
    batch = {name: torch.tensor(rows) for name, rows in padded.items() if rows}  # (batch, length)
    for name in ("pixel_values", "image_features"):
        stacks = [sample[name] for sample in encoded if name in sample]
        if stacks:
            batch[name] = torch.cat(stacks)                                 # (num_images, ...)
    return batch


def fill_with_black_images(samples: Sequence[Sample], num_images: int) -> list[Sample]:
    """The naive way, for comparison: every sample filled with zero images up to num_images.

    The zero images follow the real ones and are attended like any other.
    """
    blank = Image.new("RGB", samples[0].images[0].size)
    filled = []
    for sample in samples:
        missing = num_images - len(sample.images)
        if missing < 0:
            raise ValueError(f"a sample has {len(sample.images)} images, more than {num_images}")
        end = sample.prompt.rindex(IMAGE_TOKEN) + len(IMAGE_TOKEN)
        prompt = sample.prompt[:end] + IMAGE_TOKEN * missing + sample.prompt[end:]
        filled.append(Sample(sample.images + [blank] * missing, prompt,
                             sample.answer, sample.task))
    return filled


class LengthGroupedSampler(Sampler[list[int]]):
    """Batches of samples of similar length, in random order, drawn again each epoch.

    Sorted within windows of `window` batches, so that batches stay random but padding is small.
    Raises ValueError if there are too few samples for one batch.
    """

    def __init__(self, lengths: Sequence[int], batch_size: int, seed: int = 0, window: int = 16):
        if batch_size < 1 or window < 1:
            raise ValueError(f"batch_size and window are at least 1, not {batch_size} and {window}")
        if len(lengths) < batch_size:
            raise ValueError(f"{len(lengths)} samples do not fill one batch of {batch_size}: "
                             "choose a smaller batch_size")
        self.lengths = np.asarray(lengths)
        self.batch_size, self.seed, self.window, self.epoch = batch_size, seed, window, 0

    def __len__(self) -> int:
        return len(self.lengths) // self.batch_size

    def __iter__(self) -> Iterator[list[int]]:
        rng = np.random.default_rng([self.seed, self.epoch])
        self.epoch += 1
        order = rng.permutation(len(self.lengths))
        size = self.batch_size
        batches = []
        for start in range(0, len(order), size * self.window):
            part = order[start:start + size * self.window]
            part = part[np.argsort(self.lengths[part], kind="stable")]
            batches += [part[i:i + size].tolist() for i in range(0, len(part), size)]
        whole = [batch for batch in batches if len(batch) == size]
        for i in rng.permutation(len(whole)):
            yield whole[i]
