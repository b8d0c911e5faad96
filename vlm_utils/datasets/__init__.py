"""Lesson 02: from captioned images to samples over several images."""

from vlm_utils.datasets.by_name import MOST_ASKED, cover
from vlm_utils.datasets.changes import COMPARE_PROMPT, caption_pair, compare, sequence
from vlm_utils.datasets.mixture import TASKS, build_recipes, build_tasks, feasible, is_free_text
from vlm_utils.datasets.one_image import DESCRIBE_PROMPT, SIZES
from vlm_utils.datasets.samples import (
    IGNORED,
    Sample,
    TaskDataset,
    encode_sample,
    encode_samples,
    mask_prompt,
)
from vlm_utils.datasets.selection import select
from vlm_utils.datasets.tables import ImageTable, add_turns, load_image_table
from vlm_utils.datasets.truth import Recipe, Truth, images_first

__all__ = [
    "COMPARE_PROMPT", "DESCRIBE_PROMPT", "IGNORED", "ImageTable", "MOST_ASKED", "Recipe",
    "SIZES", "Sample", "TASKS", "TaskDataset", "Truth", "add_turns", "build_recipes",
    "build_tasks", "caption_pair", "compare", "cover", "encode_sample", "encode_samples",
    "feasible", "images_first", "is_free_text", "load_image_table", "mask_prompt", "select",
    "sequence"]
