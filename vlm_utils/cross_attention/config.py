"""The configuration of a model whose language model attends to images beside its sequence."""

from __future__ import annotations

from transformers import AutoConfig, LlamaConfig

from vlm_utils.architecture import MultiImageVLMConfig


class CrossAttentionLlamaConfig(LlamaConfig):
    """A Llama of which some layers start with a gated cross-attention block.

    cross_attention_layers: their indices, counted from 0. initial_gate: where every gate of a new
    block starts; tanh of it is what the block's result is multiplied by. gated_feed_forward: each
    block has a feed-forward part with a gate of its own, as Flamingo's have.
    """

    model_type = "cross_attention_llama"
    cross_attention_layers: list[int] | None = None
    initial_gate: float = 0.0
    gated_feed_forward: bool = True


class CrossAttentionConfig(MultiImageVLMConfig):
    """As MultiImageVLMConfig, of a model in whose prompt each image takes one placeholder.

    image_mask: what text sees, "preceding" (all images before it) or "immediate" (the last one).
    latents: vectors that a resampler makes of each image; None: the projector's tokens are taken.
    resampler_layers: layers of the resampler. image_order: an embedding says which image is which.
    """

    model_type = "cross_attention_vlm"

    def __init__(self, image_mask="preceding", latents=None, resampler_layers=1, image_order=True,
                 **kwargs):
        if image_mask not in IMAGE_MASKS:
            raise ValueError(f"image_mask is one of {IMAGE_MASKS}, not {image_mask!r}")
        for name, number in (("latents", latents), ("resampler_layers", resampler_layers)):
            if number is not None and not number > 0:
                raise ValueError(f"{name} is a number above 0, not {number!r}")
        self.image_mask, self.latents = image_mask, latents
        self.resampler_layers, self.image_order = resampler_layers, image_order
        super().__init__(**kwargs)

    @property
    def tokens_per_image(self) -> int:
        """Placeholders that one image takes up in the prompt."""
        return 1

    @property
    def states_per_image(self) -> int:
        """Vectors of one image that the language model attends to."""
        return self.latents or self.patches_per_image // self.merge_factor**2


IMAGE_MASKS = ("preceding", "immediate")
AutoConfig.register(CrossAttentionLlamaConfig.model_type, CrossAttentionLlamaConfig)
AutoConfig.register(CrossAttentionConfig.model_type, CrossAttentionConfig)
