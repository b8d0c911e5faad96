"""Lesson 01: the model and its processor."""

from vlm_utils.architecture.adapters import base_of_adapter, merge_adapter, put_adapter
from vlm_utils.architecture.auto import AutoMultiImageProcessor
from vlm_utils.architecture.config import MultiImageVLMConfig
from vlm_utils.architecture.joining import join_parts, join_pretrained
from vlm_utils.architecture.model import (
    IGNORED,
    MultiImageVLM,
    MultiImageVLMOutput,
    Projector,
    answer_loss,
    count_parameters,
    merge_image_embeddings,
    merge_neighbours,
)
from vlm_utils.architecture.processor import (
    IDENTIFIER_PATTERN,
    IDENTIFIERS,
    IMAGE_TOKEN,
    LAYOUTS,
    MultiImageProcessor,
    add_special_tokens,
    as_text,
    identifier,
    image_block,
    lay_out,
    named_images,
    special_tokens,
)
from vlm_utils.architecture.two_paths import TwoPathConfig, TwoPathEncoder

__all__ = [
    "AutoMultiImageProcessor", "IDENTIFIERS", "IDENTIFIER_PATTERN", "IGNORED", "IMAGE_TOKEN",
    "LAYOUTS", "MultiImageProcessor", "MultiImageVLM", "MultiImageVLMConfig", "MultiImageVLMOutput",
    "Projector", "TwoPathConfig", "TwoPathEncoder", "add_special_tokens", "answer_loss", "as_text",
    "base_of_adapter", "count_parameters", "identifier", "image_block", "join_parts",
    "join_pretrained", "lay_out", "merge_adapter", "merge_image_embeddings", "merge_neighbours",
    "named_images", "put_adapter", "special_tokens"]
