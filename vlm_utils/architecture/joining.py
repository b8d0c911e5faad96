"""Two pretrained models become one: a vision encoder, a language model, a new projector."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import (
    AutoTokenizer,
    LlamaForCausalLM,
    PreTrainedModel,
    ViTImageProcessorPil,
    ViTModel,
)

from vlm_utils.architecture.config import MultiImageVLMConfig
from vlm_utils.architecture.model import MultiImageVLM, Projector
from vlm_utils.architecture.processor import (
    IMAGE_TOKEN,
    MultiImageProcessor,
    add_special_tokens,
)


def join_pretrained(vision: str | Path, text: str | Path, max_images: int, merge_factor: int,
                    **settings) -> tuple[MultiImageVLM, MultiImageProcessor]:
    """A pretrained ViT and a pretrained Llama, each from its folder, and their processor.

    settings: of MultiImageProcessor, as layout="prepended".
    """
    tokenizer = AutoTokenizer.from_pretrained(text, trust_remote_code=False)
    add_special_tokens(tokenizer, max_images)               # <image>, <image_1>, <image_2>, ...
    vision_encoder = ViTModel.from_pretrained(vision, add_pooling_layer=False)
    language_model = LlamaForCausalLM.from_pretrained(text, dtype="float32")
    language_model.resize_token_embeddings(len(tokenizer))  # a row for each new token
    model = join_parts(
        vision_encoder, language_model, merge_factor=merge_factor, max_images=max_images,
        image_token_id=tokenizer.convert_tokens_to_ids(IMAGE_TOKEN))
    model.freeze_vision_encoder().eval()
    processor = MultiImageProcessor(
        tokenizer, ViTImageProcessorPil.from_pretrained(vision), model.config.tokens_per_image,
        max_images, **({"max_length": language_model.config.max_position_embeddings} | settings))
    return model, processor


def join_parts(vision_encoder: PreTrainedModel, language_model: PreTrainedModel,
               **settings) -> MultiImageVLM:
    """Join two pretrained models by a new projector. settings: of MultiImageVLMConfig."""
    config = MultiImageVLMConfig(
        vision_encoder.config, language_model.config, dtype=language_model.dtype, **settings)
    with torch.device("meta"):  # shapes without memory: the two big halves are not built twice
        model = MultiImageVLM(config)
    model.projector = Projector(config.vision_config.hidden_size,
                                config.text_config.hidden_size, config.merge_factor)
    model.projector.to(language_model.dtype)
    model.projector.match_scale(language_model.get_input_embeddings().weight)
    model.vision_encoder, model.language_model = vision_encoder, language_model
    model.generation_config = language_model.generation_config
    return model
