"""What a run was made of, so that another thing is not taken for it: images, encoder, samples."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import xxhash

from vlm_utils.architecture import MultiImageProcessor, MultiImageVLM
from vlm_utils.datasets import EncodedSamples, ImageTable


def images_fingerprint(table: ImageTable) -> str:
    """Of the bytes of each image, whatever its file is called and however old it says it is."""
    digest = xxhash.xxh3_128(str(table.orientations).encode())
    for part in table.dataset.with_format("arrow").iter(batch_size=256):    # not decoded
        column = part["image"].combine_chunks()
        for content, path in zip(column.field("bytes"), column.field("path"), strict=True):
            content = content.as_buffer() if content.is_valid else Path(path.as_py()).read_bytes()
            digest.update(len(content).to_bytes(8, "little"))
            digest.update(content)
    return digest.hexdigest()


def features_fingerprint(table: ImageTable, model: MultiImageVLM,
                         processor: MultiImageProcessor) -> str:
    """Of all that features are computed from: images, preprocessing and the encoder's weights."""
    digest = xxhash.xxh3_128(images_fingerprint(table).encode())
    for name, weight in sorted(model.vision_encoder.state_dict().items()):
        digest.update(name.encode())
        digest.update(weight.detach().float().cpu().numpy().tobytes())
    settings = processor.image_processor.to_dict()
    digest.update(json.dumps(settings, sort_keys=True, default=str).encode())
    return digest.hexdigest()


def describe_samples(samples: EncodedSamples) -> dict:
    """What a data set is, in words for people and as fingerprints: what resuming compares.

    The tokens of each sample, the rows of its images, and these images or their features.
    """
    digest, known = xxhash.xxh3_128(), {}               # what repeats is turned into bytes once
    for text, recipe in zip(samples.texts, samples.dataset.recipes, strict=True):
        if id(text) not in known:
            known[id(text)] = as_bytes(text["input_ids"]) + as_bytes(text["labels"])
        digest.update(known[id(text)])
        digest.update(as_bytes(recipe.rows))
    table = samples.dataset.table
    encoded = getattr(table.image_features, "fingerprint", None)
    tasks = Counter(f"{recipe.task} {recipe.num_images}" for recipe in samples.dataset.recipes)
    return {"table": table.name, "images": len(table), "samples": len(samples),
            "tasks": dict(sorted(tasks.items())),
            "encoded before": table.image_features is not None,
            "text": digest.hexdigest(), "image": encoded or images_fingerprint(table)}


def as_bytes(numbers: Sequence[int]) -> bytes:
    """Numbers, and how many they are: [1], [2, 3] shall not read as [1, 2], [3]."""
    return np.asarray([len(numbers), *numbers], dtype=np.int64).tobytes()


def in_words(described: dict) -> str:
    """A data set for an error message: its name, its size, and how many samples of which task."""
    tasks = ", ".join(f"{name}: {number}" for name, number in described["tasks"].items())
    return (f"{described['table']!r} ({described['images']} images"
            f"{', encoded before' * described['encoded before']}; {described['samples']} samples: "
            f"{tasks}; fingerprint {described['text'][:6]}-{described['image'][:6]})")
