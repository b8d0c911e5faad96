"""Lesson 02: from captioned images to samples over several images."""

from vlm_utils.datasets.boxes import box_text, changed_box, locate, locate_change, moments, when
from vlm_utils.datasets.by_name import MOST_ASKED, cover
from vlm_utils.datasets.changes import COMPARE_PROMPT, caption_pair, compare, sequence
from vlm_utils.datasets.mixture import (
    TASKS,
    build_recipes,
    build_tasks,
    feasible,
    is_free_text,
    most_images,
    parse_mixture,
)
from vlm_utils.datasets.one_image import DESCRIBE_PROMPT, SIZES
from vlm_utils.datasets.own import own_samples
from vlm_utils.datasets.samples import (
    EncodedSamples,
    Sample,
    TaskDataset,
    encode_sample,
    encode_samples,
    encode_text,
    mask_prompt,
)
from vlm_utils.datasets.selection import select
from vlm_utils.datasets.tables import (
    ImageFeatures,
    ImageTable,
    add_orientations,
    load_image_table,
    load_profile_table,
    load_series_table,
)
from vlm_utils.datasets.truth import Recipe, Truth, images_first

__all__ = [
    "COMPARE_PROMPT", "DESCRIBE_PROMPT", "MOST_ASKED", "SIZES", "TASKS", "EncodedSamples",
    "ImageFeatures", "ImageTable", "Recipe", "Sample", "TaskDataset", "Truth", "add_orientations",
    "box_text", "build_recipes", "build_tasks", "caption_pair", "changed_box", "compare", "cover",
    "encode_sample", "encode_samples", "encode_text", "feasible", "images_first", "is_free_text",
    "load_image_table", "load_profile_table", "load_series_table", "locate", "locate_change",
    "mask_prompt", "moments", "most_images", "own_samples", "parse_mixture", "select", "sequence",
    "when"]
