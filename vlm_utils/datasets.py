"""Lesson 02: from captioned images to tasks over several images.

An image table holds each image once. Recipes (`tasks.py`) say which rows a sample takes and what
is asked; a TaskDataset joins the two. Samples are tokenised here, and their labels masked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vlm_utils import images, tasks, tiny_earth
from vlm_utils.processor import MultiImageProcessor
from vlm_utils.profiles import Profile, image_folder
from vlm_utils.tasks import Recipe, Truth
from vlm_utils.turning import turn_image, turn_scene

IGNORED = -100  # the label that cross entropy leaves out
CAPTIONS = tuple(f"caption_{i}" for i in range(5))


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
class ImageTable:
    """One split: `dataset` with an `image` column, each image once, and what is known of it."""

    name: str
    dataset: object
    truth: Truth
    turns: int = 1  # orientations; see add_turns

    def __len__(self) -> int:
        return len(self.dataset)

    def image(self, row: int) -> Image.Image:
        picture = images.as_rgb(self.dataset[row]["image"], f"{self.name} row {row}")
        turn = row * self.turns // len(self)
        return turn_image(picture, turn) if turn else picture


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


def load_image_table(profile: Profile, split: str, with_truth: bool = False) -> ImageTable:
    """The images of a split: the user's (VLM_IMAGES), else those of the profile.

    with_truth: only images of which something is known, to train and to measure on: for a folder
    without captions, those of the profile instead.
    """
    if split not in ("train", "validation", "test"):
        raise ValueError(f"split is train, validation or test, not {split!r}")
    folder = image_folder()
    if folder is not None:
        table = _folder_table(folder, split)
        if table.truth.has_captions or not with_truth:
            return table
        print(f"{folder.name} has no captions: training and measuring use the profile's images")
    if profile.dataset is not None:
        return _captioned_table(images.load_hub_images(profile.dataset, split), split)
    return _tiny_earth_table(split)


def add_turns(table: ImageTable, turns: int) -> ImageTable:
    """The same images in 1 to 8 orientations, their ground truth turned with them.

    Row i + turn * images is image i turned. A view from above has no up or down, so each turned
    tile is as true as the first. Images without scenes are left as they are: captions cannot be
    turned.
    """
    from datasets import concatenate_datasets
    if turns == 1 or not table.truth.has_scenes:
        return table
    truth, count = table.truth, len(table)
    scenes = [turn_scene(scene, turn) for turn in range(turns) for scene in truth.scenes]
    captions = [*truth.captions, *(tiny_earth.captions(scene) for scene in scenes[count:])]
    places = [tuple(row + turn * count for row in rows)
              for turn in range(turns) for rows in truth.places]
    return ImageTable(f"{table.name}, {turns} orientations",
                      concatenate_datasets([table.dataset] * turns),
                      Truth(scenes, captions, places), turns)


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


def build_recipes(truth: Truth, mixture: dict[str, int], seed: int) -> list[Recipe]:
    """Samples of each task: {"select 3": 100, "sequence 2-4": 50}, shuffled, without repeats.

    A range of numbers of images is drawn from evenly. Where a data set is too small to hold that
    many different samples, there are fewer. Raises ValueError for an unknown task.
    """
    rng = np.random.default_rng(seed)
    recipes: list[Recipe] = []
    for name, count in mixture.items():
        task, _, numbers = name.partition(" ")
        if task not in tasks.TASKS:
            raise ValueError(f"unknown task {task!r}: choose from {list(tasks.TASKS)}")
        low, _, high = numbers.partition("-")
        choices = range(int(low), int(high or low) + 1)
        made: dict[Recipe, None] = {}
        for _ in range(3 * count):
            if len(made) == count:
                break
            num_images = int(choices[rng.integers(len(choices))])
            made[tasks.TASKS[task](truth, rng, num_images)] = None
        recipes += made
    return [recipes[i] for i in rng.permutation(len(recipes))]


def build_tasks(table: ImageTable, mixture: dict[str, int], seed: int) -> TaskDataset:
    """The samples of a mixture over one split."""
    return TaskDataset(table, build_recipes(table.truth, feasible(table.truth, mixture), seed))


def feasible(truth: Truth, mixture: dict[str, int]) -> dict[str, int]:
    """The part of a mixture that the data can tell: what needs scenes is left out without them.

    From captions: describe, select, compare, refer. From frames alone: describe, compare,
    sequence, without answers.
    """
    if truth.has_scenes:
        return mixture
    can = {"describe", "select", "compare", "refer"} if truth.has_captions \
        else {"describe", "compare", "sequence"}
    kept = {}
    longest = max((len(p) for p in truth.places), default=1)
    for name, count in mixture.items():
        task, _, numbers = name.partition(" ")
        most = int(numbers.split("-")[-1])
        limit = longest if task == "sequence" else len(truth.scenes)
        if task in can and most <= limit:
            kept[name] = count
    return kept


def _tiny_earth_table(split: str) -> ImageTable:
    """Tiles of single places, then all frames of all sequences, each image once."""
    from datasets import concatenate_datasets
    singles = tiny_earth.load_scenes(split)
    series = tiny_earth.load_sequences(split)
    frames, lengths = tiny_earth.frames_as_rows(series)
    scenes = [tiny_earth.Scene.from_json(text) for text in singles["scene"]]
    captions = [list(row) for row in zip(*(singles[c] for c in CAPTIONS), strict=True)]
    for row in series["scenes"]:
        scenes += [tiny_earth.Scene.from_json(text) for text in row]
    captions += [tiny_earth.captions(scene) for scene in scenes[len(singles):]]
    start, places = len(singles), []
    for length in lengths:
        places.append(tuple(range(start, start + length)))
        start += length
    dataset = concatenate_datasets([singles.select_columns(["image"]), frames])
    return ImageTable(f"TinyEarth {split}", dataset, Truth(scenes, captions, places))


def _captioned_table(dataset, split: str) -> ImageTable:
    columns = [c for c in CAPTIONS if c in dataset.column_names]
    captions = [[t for t in row if t] for row in zip(*(dataset[c] for c in columns), strict=True)]
    truth = Truth([None] * len(dataset), captions, [(i,) for i in range(len(dataset))])
    return ImageTable(split, dataset, truth)


def _folder_table(folder, split: str) -> ImageTable:
    """A user's folder: with captions, a quarter is kept for testing; frames stay together."""
    dataset = images.load_image_folder(folder)
    if "caption_0" not in dataset.column_names:
        rows = tuple(range(len(dataset)))
        return ImageTable(folder.name, dataset, Truth([None] * len(rows), [[]] * len(rows), [rows]))
    order = np.random.default_rng(0).permutation(len(dataset))
    held_out = max(1, len(dataset) // 4)
    if len(dataset) - held_out < 2:
        raise ValueError(f"{folder} holds {len(dataset)} images: at least 3 are needed, 2 to train "
                         "on and 1 to test on")
    chosen = order[held_out:] if split == "train" else order[:held_out]
    table = _captioned_table(dataset.select(sorted(int(i) for i in chosen)), split)
    table.name = f"{folder.name} {split}"
    return table
