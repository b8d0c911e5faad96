"""From a model with images in its sequence to one that has them beside it."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch

from vlm_utils.architecture import MultiImageProcessor, MultiImageVLM
from vlm_utils.cross_attention.config import CrossAttentionConfig, CrossAttentionLlamaConfig
from vlm_utils.cross_attention.model import CrossAttentionVLM


def add_cross_attention(model: MultiImageVLM, processor: MultiImageProcessor,
                        layers: Sequence[int] | None = None, initial_gate: float = 0.5,
                        copy_attention: bool = True, gated_feed_forward: bool = False,
                        seed: int = 0, **settings) -> tuple[CrossAttentionVLM, MultiImageProcessor]:
    """A model that starts from another one's parts, and a processor with one placeholder an image.

    layers: that get a block, counted from 0; default: all but the first. initial_gate,
    gated_feed_forward: see CrossAttentionLlamaConfig. copy_attention: each block starts as a copy
    of its layer's self-attention, else at random. settings: of CrossAttentionConfig; with latents,
    the projector is not taken over. The vision encoder is shared with the model, all else copied.
    Raises ValueError for a layer that is not there.
    """
    text = model.config.text_config
    layers = sorted(set(range(1, text.num_hidden_layers) if layers is None else layers))
    if not layers or not set(layers) <= set(range(text.num_hidden_layers)):
        raise ValueError(f"layers names {layers}, and the language model has layers 0 to "
                         f"{text.num_hidden_layers - 1}")
    with_blocks = CrossAttentionLlamaConfig(**{
        **{name: value for name, value in text.to_dict().items() if name != "model_type"},
        "cross_attention_layers": layers, "initial_gate": initial_gate,
        "gated_feed_forward": gated_feed_forward})
    config = CrossAttentionConfig(
        vision_config=model.config.vision_config, text_config=with_blocks, dtype=model.dtype,
        image_token_id=model.config.image_token_id, merge_factor=model.config.merge_factor,
        max_images=model.config.max_images, **settings)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        beside = CrossAttentionVLM(config).to(model.dtype)
    beside.vision_encoder = model.vision_encoder
    beside.language_model.load_state_dict(model.language_model.state_dict(), strict=False)
    if config.latents is None:
        beside.projector.load_state_dict(model.projector.state_dict())
    else:
        beside.projector.match_scale(model.get_input_embeddings().weight)
    if copy_attention:
        for index in layers:
            layer = beside.language_model.model.layers[index]
            layer.cross_attention.copy_attention(layer)
    beside.language_model.generation_config = copy.deepcopy(model.generation_config)
    return beside.to(model.device).eval(), MultiImageProcessor(
        processor.tokenizer, processor.image_processor, config.tokens_per_image,
        processor.max_images, processor.layout, processor.identifiers, processor.max_length)


def gates(model: CrossAttentionVLM) -> dict[str, float]:
    """tanh of every gate, by its layer counted from 1: how far it is open, from -1 to 1."""
    opened = {}
    for index, layer in enumerate(model.language_model.model.layers, start=1):
        if layer.cross_attention is not None:
            for name, gate in layer.cross_attention.named_parameters(recurse=False):
                part = "feed-forward" if "feed_forward" in name else "attention"
                opened[f"layer {index}, {part}"] = gate.tanh().item()
    return opened
