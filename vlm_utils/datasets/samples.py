"""Samples: recipes with their images, tokenised, their labels masked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from PIL import Image
from torch import Tensor

from vlm_utils.architecture import IGNORED, MultiImageProcessor
from vlm_utils.datasets.tables import ImageTable
from vlm_utils.datasets.truth import Recipe


@dataclass
class Sample:
    """0 to 16 images, a prompt with one `<image>` for each, an answer (None: not known), a task.

    image_features: (num_images, patches, vision_dim), if the images were encoded beforehand.
    source: where it comes from, for errors.
    """

    images: list[Image.Image]
    prompt: str
    answer: str | None
    task: str
    image_features: Tensor | None = None
    source: str = ""

    @property
    def num_images(self) -> int:
        if isinstance(self.images, Image.Image | str):
            raise ValueError("images is one image: give a list, even of one")
        if not isinstance(self.images, list | tuple):
            raise ValueError(f"images is a {type(self.images).__name__}, not a list of PIL images")
        return len(self.images if self.image_features is None else self.image_features)


@dataclass(eq=False)
class TaskDataset(torch.utils.data.Dataset):
    """Samples on demand: recipe i with its images, or with their features once these are known."""

    table: ImageTable
    recipes: list[Recipe]

    def __len__(self) -> int:
        return len(self.recipes)

    def __getitem__(self, i: int) -> Sample:
        recipe = self.recipes[i]
        if self.table.image_features is None or not recipe.rows:    # a text alone has no features
            return self.with_images(i)
        features = self.table.image_features[list(recipe.rows)]     # (num_images, patches, dim)
        return Sample([], recipe.prompt, recipe.answer, recipe.task, features, self._source(i))

    def with_images(self, i: int) -> Sample:
        """Sample i with its pictures, for looking at."""
        recipe = self.recipes[i]
        pictures = [self.table.image(row) for row in recipe.rows]
        return Sample(pictures, recipe.prompt, recipe.answer, recipe.task, source=self._source(i))

    def images_of(self, i: int) -> str:
        """What sample i's images are called in errors."""
        return ", ".join(self.table.where(row) for row in self.recipes[i].rows) or "no images"

    def of_task(self, task: str) -> TaskDataset:
        return replace(self, recipes=[r for r in self.recipes if r.task == task])

    def _source(self, i: int) -> str:
        return f"sample {i} of {len(self)} ({self.images_of(i)})"


def mask_prompt(prompt_ids: Sequence[int], answer_ids: Sequence[int]) -> list[int]:
    """Labels of a sample: the prompt is given, not learnt; the answer is, with its end token.

    The end token is learnt even if padding is the same token: padding is recognised by its
    position, never by its token id.
    """
    return [IGNORED] * len(prompt_ids) + list(answer_ids)


def encode_text(sample: Sample | Recipe, processor: MultiImageProcessor,
                for_generation: bool = False) -> dict[str, list[int]]:
    """Token ids of prompt and answer, and their labels; for generation, of the prompt alone.

    Raises ValueError if the sample is too long or its prompt does not fit its images.
    """
    prompt = processor.encode_prompt(sample.prompt, sample.num_images)
    if for_generation:
        processor.check_length(len(prompt), sample.num_images)
        return {"input_ids": prompt}
    if sample.answer is None:
        raise ValueError("the sample has no answer to learn from: add captions to the images")
    answer = processor.encode_answer(sample.answer)
    processor.check_length(len(prompt) + len(answer), sample.num_images)
    return {"input_ids": prompt + answer, "labels": mask_prompt(prompt, answer)}


def encode_sample(sample: Sample, processor: MultiImageProcessor,
                  for_generation: bool = False) -> dict[str, list[int] | Tensor]:
    """A sample as the collator takes it: its text as token ids, its images as one tensor.

    Images become pixel_values (num_images, 3, height, width), or stay image_features (num_images,
    patches, vision_dim) if they were encoded beforehand; a sample without images has neither.
    """
    encoded = encode_text(sample, processor, for_generation)
    if sample.image_features is not None:
        return encoded | {"image_features": sample.image_features}
    if sample.images:
        return encoded | {"pixel_values": processor.pixel_values(sample.images)}
    return encoded


def encode_samples(samples: Sequence[Sample], processor: MultiImageProcessor,
                   for_generation: bool = False) -> list[dict[str, list[int] | Tensor]]:
    """encode_sample for each of several. Raises ValueError naming the one that cannot be."""
    encoded = []
    for position, sample in enumerate([samples] if isinstance(samples, Sample) else samples):
        if not isinstance(sample, Sample):
            raise ValueError(f"sample {position} of the batch is a {type(sample).__name__}, not a "
                             "Sample(images, prompt, answer, task)")
        try:
            encoded.append(encode_sample(sample, processor, for_generation))
        except ValueError as error:
            name = sample.source or f"sample {position} of the batch"
            raise ValueError(f"{name}: {error}") from error
    return encoded


class EncodedSamples(torch.utils.data.Dataset):
    """The samples of a TaskDataset as the collator takes them, tokenised once: no step does it.

    lengths: tokens of each sample, so that batches can be made of samples of similar length.
    Raises ValueError naming the sample that has no answer, or that cannot be encoded.
    """

    def __init__(self, dataset: TaskDataset, processor: MultiImageProcessor):
        if not isinstance(dataset, TaskDataset):
            raise ValueError(f"the samples are a {type(dataset).__name__}, not a TaskDataset: "
                             "own_samples(rows) makes one of rows of your own")
        self.dataset, self.processor = dataset, processor
        self.texts = []
        known: dict[tuple, dict[str, list[int]]] = {}       # what repeats is tokenised once
        for i, recipe in enumerate(dataset.recipes):
            key = recipe.prompt, recipe.answer, recipe.num_images
            if key not in known:
                try:
                    known[key] = encode_text(recipe, processor)
                except ValueError as error:
                    raise ValueError(f"sample {i} of {len(dataset)}: {error} "
                                     f"({dataset.images_of(i)})") from error
            self.texts.append(known[key])
        self.lengths = [len(text["input_ids"]) for text in self.texts]

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, i: int) -> dict[str, list[int] | Tensor]:
        table, rows = self.dataset.table, list(self.dataset.recipes[i].rows)
        if not rows:
            return self.texts[i]
        if table.image_features is not None:
            return self.texts[i] | {"image_features": table.image_features[rows]}
        pixels = self.processor.pixel_values([table.image(row) for row in rows])
        return self.texts[i] | {"pixel_values": pixels}
