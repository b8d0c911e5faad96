"""Lesson 08: images beside the sequence: resampler, gated cross-attention, many questions."""

from vlm_utils.cross_attention.asking import AskedImages, ask
from vlm_utils.cross_attention.config import CrossAttentionConfig, CrossAttentionLlamaConfig
from vlm_utils.cross_attention.gated import CrossAttentionLlama, GatedCrossAttention
from vlm_utils.cross_attention.masks import image_mask, stack_by_sample
from vlm_utils.cross_attention.model import CrossAttentionVLM
from vlm_utils.cross_attention.resampler import PerceiverResampler
from vlm_utils.cross_attention.starting import add_cross_attention, gates

__all__ = [
    "AskedImages", "CrossAttentionConfig", "CrossAttentionLlama", "CrossAttentionLlamaConfig",
    "CrossAttentionVLM", "GatedCrossAttention", "PerceiverResampler", "add_cross_attention", "ask",
    "gates", "image_mask", "stack_by_sample"]
