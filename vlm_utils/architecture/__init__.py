"""Lesson 01: the model and its processor."""

from vlm_utils.architecture.model import (
    MultiImageVLM,
    MultiImageVLMConfig,
    Projector,
    count_parameters,
    merge_image_embeddings,
    merge_neighbours,
)
from vlm_utils.architecture.processor import (
    IDENTIFIERS,
    IMAGE_TOKEN,
    LAYOUTS,
    MultiImageProcessor,
    add_special_tokens,
    identifier,
    special_tokens,
)

__all__ = [
    "IDENTIFIERS", "IMAGE_TOKEN", "LAYOUTS", "MultiImageProcessor", "MultiImageVLM",
    "MultiImageVLMConfig", "Projector", "add_special_tokens", "count_parameters", "identifier",
    "merge_image_embeddings", "merge_neighbours", "special_tokens"]
