"""Samples: recipes with their images, tokenised, their labels masked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from PIL import Image
from torch import Tensor

from vlm_utils.architecture import MultiImageProcessor
from vlm_utils.datasets.tables import ImageTable
from vlm_utils.datasets.truth import Recipe

IGNORED = -100  # the label that cross entropy leaves out


@dataclass
class Sample:
    """1 to 8 images, a prompt with one `<image>` for each, an answer (None: not known), a task.

    image_features: (num_images, patches, vision_dim), where the images were encoded beforehand.
    """

    images: list[Image.Image]
    prompt: str
    answer: str | None
    task: str
    image_features: Tensor | None = None


@dataclass(eq=False)
class TaskDataset(torch.utils.data.Dataset):
    """Samples on demand: recipe i with its images, or with their features once these are known.

    features: (rows of the table, patches, vision_dim), as encode_table returns.
    """

    table: ImageTable
    recipes: list[Recipe]
    features: Tensor | None = field(default=None, repr=False)

    def __len__(self) -> int:
        return len(self.recipes)

    def __getitem__(self, i: int) -> Sample:
        recipe = self.recipes[i]
        if self.features is not None:
            features = self.features[list(recipe.rows)]          # (num_images, patches, dim)
            return Sample([], recipe.prompt, recipe.answer, recipe.task, features)
        pictures = [self.table.image(row) for row in recipe.rows]
        return Sample(pictures, recipe.prompt, recipe.answer, recipe.task)

    def with_images(self, i: int) -> Sample:
        """Sample i with its pictures, for looking at."""
        return TaskDataset(self.table, self.recipes)[i]

    def of_task(self, task: str) -> TaskDataset:
        kept = [r for r in self.recipes if r.task == task]
        return TaskDataset(self.table, kept, self.features)


def mask_prompt(prompt_ids: Sequence[int], answer_ids: Sequence[int]) -> list[int]:
    """Labels of a sample: the prompt is given, not learnt; the answer is, with its end token.

    The end token is learnt although padding may be the same token: what is padding is known from
    where it stands, never from its number.
    """
    return [IGNORED] * len(prompt_ids) + list(answer_ids)


def encode_sample(sample: Sample | Recipe, processor: MultiImageProcessor) -> dict[str, list[int]]:
    """Token ids and labels, both of length prompt + answer; without an answer, the prompt's.

    Raises ValueError where the sample is too long or its prompt does not fit its images.
    """
    if isinstance(sample, Recipe):
        num_images = len(sample.rows)
    else:
        features = sample.image_features
        num_images = len(sample.images if features is None else features)
    prompt = processor.encode_prompt(sample.prompt, num_images)
    answer = processor.encode_answer(sample.answer) if sample.answer is not None else []
    processor.check_length(len(prompt) + len(answer))
    return {"input_ids": prompt + answer, "labels": mask_prompt(prompt, answer)}


def encode_samples(recipes: Sequence[Recipe],
                   processor: MultiImageProcessor) -> list[dict[str, list[int]]]:
    """encode_sample for many recipes with answers; what repeats is tokenised once."""
    prompts = {key: processor.encode_prompt(*key)
               for key in {(r.prompt, len(r.rows)) for r in recipes}}
    answers = {answer: processor.encode_answer(answer) for answer in {r.answer for r in recipes}}
    encoded = []
    for recipe in recipes:
        prompt, answer = prompts[recipe.prompt, len(recipe.rows)], answers[recipe.answer]
        processor.check_length(len(prompt) + len(answer))
        encoded.append({"input_ids": prompt + answer, "labels": mask_prompt(prompt, answer)})
    return encoded
