"""Lesson 03: samples with different numbers of images in one batch.

Images are stacked flat, so none has to be invented; text is padded to the longest of the batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Sampler

from vlm_utils.architecture import IMAGE_TOKEN, MultiImageProcessor
from vlm_utils.datasets import IGNORED, Sample, TaskDataset, encode_sample


def collate_multi_image(samples: Sequence[Sample], processor: MultiImageProcessor,
                        for_generation: bool = False) -> dict[str, Tensor]:
    """A batch of samples, each with as many images as it has.

    Returns input_ids, attention_mask and labels, (batch, length), padded to the longest sample:
    on the right for training, on the left and without the answers for generation. The images of
    all samples, in order, are pixel_values (num_images, 3, height, width), or image_features
    (num_images, patches, dim) where they were encoded beforehand. No padding image is made.
    Raises ValueError naming the sample that cannot be encoded.
    """
    if not samples:
        raise ValueError("an empty batch: give at least one sample")
    encoded = []
    for position, sample in enumerate(samples):
        if for_generation:
            sample = Sample(sample.images, sample.prompt, None, sample.task, sample.image_features)
        try:
            encoded.append(encode_sample(sample, processor))
        except ValueError as error:
            raise ValueError(f"sample {position} of the batch: {error}") from error
    batch = pad_texts(encoded, processor.pad_token_id, left=for_generation)
    if samples[0].image_features is not None:
        batch["image_features"] = torch.cat([s.image_features for s in samples])
    else:
        images = [image for sample in samples for image in sample.images]
        batch["pixel_values"] = processor.pixel_values(images)
    if for_generation:
        del batch["labels"]
    return batch


def pad_texts(encoded: Sequence[dict[str, list[int]]], pad_token_id: int,
              left: bool) -> dict[str, Tensor]:
    """Token ids and labels of unequal length as tensors (batch, longest)."""
    longest = max(len(row["input_ids"]) for row in encoded)
    shape = len(encoded), longest
    batch = {"input_ids": torch.full(shape, pad_token_id),
             "attention_mask": torch.zeros(shape, dtype=torch.long),
             "labels": torch.full(shape, IGNORED)}
    for i, row in enumerate(encoded):
        length = len(row["input_ids"])
        where = slice(longest - length, longest) if left else slice(0, length)
        batch["input_ids"][i, where] = torch.tensor(row["input_ids"])
        batch["attention_mask"][i, where] = 1
        batch["labels"][i, where] = torch.tensor(row["labels"])
    return batch


def collate_padded_images(samples: Sequence[Sample], processor: MultiImageProcessor,
                          num_images: int) -> dict[str, Tensor]:
    """The naive way, for comparison: fill each sample with zero images up to num_images.

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
    return collate_multi_image(filled, processor)


def wasted_share(batch: dict[str, Tensor]) -> float:
    """Share of a batch's tokens that are padding, between 0 and 1."""
    return 1 - batch["attention_mask"].float().mean().item()


class LengthGroupedSampler(Sampler[list[int]]):
    """Batches of samples of similar length, in random order, drawn anew each epoch.

    Sorted within windows of `window` batches, so that batches stay random but padding is small.
    """

    def __init__(self, lengths: Sequence[int], batch_size: int, seed: int = 0, window: int = 16):
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
        whole = [b for b in batches if len(b) == size]
        for i in rng.permutation(len(whole)):
            yield whole[i]


def generation_loader(dataset: TaskDataset, processor: MultiImageProcessor,
                      batch_size: int) -> DataLoader:
    """Batches of prompts, in order, padded on the left."""
    collate = partial(collate_multi_image, processor=processor, for_generation=True)
    return DataLoader(dataset, batch_size=batch_size, collate_fn=collate)
