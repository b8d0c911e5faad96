"""Where the model looks when it answers.

Attention shows what an answer could draw on, not what it rests on ("Attention is not Explanation",
Jain and Wallace 2019). To learn that, take an image away: see `controls`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from transformers import PreTrainedModel

from vlm_utils.answering import make_prompt_batch
from vlm_utils.architecture import MultiImageProcessor, MultiImageVLM
from vlm_utils.datasets import Sample


@torch.inference_mode()
def attention_to_images(model: MultiImageVLM, processor: MultiImageProcessor,
                        sample: Sample) -> np.ndarray:
    """How the position that predicts the first token of the answer attends to image tokens.

    Returns (layers, num_images, side, side), the mean over heads; an image has side * side tokens,
    in row order. Attention to text is left out: each layer sums to 1 over all images.
    Raises ValueError if the sample has no images, or if an image's tokens do not form a square.
    """
    tokens = processor.tokens_per_image
    side = math.isqrt(tokens)
    if side * side != tokens:
        raise ValueError(f"{tokens} tokens per image do not form a square: there is no map to draw")
    # One sample, so no padding: the last position is the one that predicts the answer.
    batch = make_prompt_batch(model, processor, [sample])
    is_image = batch["input_ids"][0] == processor.image_token_id        # (length,)
    if not is_image.any():
        raise ValueError("the sample has no images: attention to images needs at least one")
    model.eval()
    mask = batch.pop("attention_mask")
    with eager_attention(model.language_model):
        layers = model.language_model.model(
            inputs_embeds=model.embed(**batch), attention_mask=mask, use_cache=False,
            output_attentions=True).attentions
    heads = torch.stack([layer[0, :, -1].float() for layer in layers])  # (layers, heads, length)
    weights = heads.mean(dim=1)[:, is_image]                            # (layers, image tokens)
    weights = weights / weights.sum(dim=1, keepdim=True)
    return weights.reshape(len(layers), -1, side, side).cpu().numpy()


@contextmanager
def eager_attention(language_model: PreTrainedModel) -> Iterator[None]:
    """Switch a language model to plain attention, the only kind that returns its weights.

    Afterwards, and after an error, the model has the attention it had before.
    """
    before = language_model.config._attn_implementation
    try:
        language_model.set_attn_implementation("eager")
        yield
    finally:
        language_model.set_attn_implementation(before)
