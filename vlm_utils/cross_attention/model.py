"""Images beside the sequence: the text holds one placeholder for each, and attends to the rest."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import AutoModel, AutoModelForImageTextToText

from vlm_utils.architecture import MultiImageVLM, MultiImageVLMOutput
from vlm_utils.architecture.model import mismatch_message
from vlm_utils.cross_attention.config import CrossAttentionConfig
from vlm_utils.cross_attention.masks import image_mask, stack_by_sample
from vlm_utils.cross_attention.resampler import PerceiverResampler


class CrossAttentionVLM(MultiImageVLM):
    """Vision encoder, projector or resampler, and a language model with cross-attention.

    It takes the batches of the other model, with one placeholder for each image (a processor whose
    tokens_per_image is 1), and is trained, evaluated and asked by the same functions.
    """

    config_class = CrossAttentionConfig
    _no_split_modules = ["ViTLayer", "CrossAttentionLayer"]

    def __init__(self, config: CrossAttentionConfig):
        text = config.text_config
        layers = getattr(text, "cross_attention_layers", None) or []
        if not layers or not set(layers) <= set(range(text.num_hidden_layers)):
            raise ValueError(f"cross_attention_layers names {layers}, and the language model has "
                             f"layers 0 to {text.num_hidden_layers - 1}: name one at least")
        super().__init__(config)
        if config.latents is not None:
            self.projector = PerceiverResampler(
                config.vision_config.hidden_size, text.hidden_size, config.latents,
                config.resampler_layers, text.num_attention_heads)
        self.image_order = nn.Embedding(config.max_images, text.hidden_size) \
            if config.image_order else None
        self.post_init()

    def embed(self, input_ids: Tensor, pixel_values: Tensor | None = None,
              image_features: Tensor | None = None) -> Tensor:
        """The text's embeddings (batch, length, text_dim); of images it holds placeholders only."""
        return self.get_input_embeddings()(input_ids)

    def keys_values(self, image_features: Tensor, counts: Tensor) -> Tensor:
        """What every block attends to: (batch, blocks, 2, key_heads, image_states, head_dim).

        image_features: (num_images, patches, vision_dim), the images of all samples one after
        another. counts: (batch,), images of each sample.
        """
        dtype = next(self.projector.parameters()).dtype
        states = stack_by_sample(self.projector(image_features.to(dtype)), counts)
        if self.image_order is not None:                        # (batch, images, vectors, dim)
            if states.shape[1] > self.config.max_images:
                raise ValueError(f"a sample holds {states.shape[1]} images and the model knows the "
                                 f"order of {self.config.max_images}")
            states = states + self.image_order.weight[:states.shape[1], None]
        return self.language_model.keys_values(states.flatten(1, 2))

    def look(self, input_ids: Tensor, pixel_values: Tensor | None = None,
             image_features: Tensor | None = None) -> dict[str, Tensor]:
        """Keys and values of a batch's images, and which text sees which: arguments of `forward`.

        Raises ValueError if placeholders and images differ in number.
        """
        if pixel_values is not None and image_features is not None:
            raise ValueError("give pixel_values or image_features, not both")
        if pixel_values is not None:
            image_features = self.encode_images(pixel_values)
        counts = (input_ids == self.config.image_token_id).sum(dim=1)
        given = 0 if image_features is None else len(image_features)
        if int(counts.sum()) != given:
            raise ValueError(mismatch_message(counts.tolist(), given, 1))
        if not given:
            return {}
        return {"image_keys_values": self.keys_values(image_features, counts),
                "image_mask": self.mask(input_ids, int(counts.max()))}

    def mask(self, input_ids: Tensor, images: int | None = None) -> Tensor:
        """What each place of the text sees: (batch, length, image_states), bool."""
        seen = image_mask(input_ids, self.config.image_token_id, self.config.image_mask, images)
        return seen.repeat_interleave(self.config.states_per_image, dim=-1)

    def forward(self, input_ids: Tensor | None = None, attention_mask: Tensor | None = None,
                labels: Tensor | None = None, pixel_values: Tensor | None = None,
                image_features: Tensor | None = None, **kwargs) -> MultiImageVLMOutput:
        """As MultiImageVLM.forward. What `look` returns may be given instead of images."""
        if kwargs.get("image_keys_values") is None and input_ids is not None:
            kwargs |= self.look(input_ids, pixel_values, image_features)
        outputs = super().forward(input_ids, attention_mask, labels, **kwargs)
        if outputs.loss is not None and kwargs.get("image_keys_values") is None:
            outputs.loss = outputs.loss + self.zero_times_unused()
        return outputs

    def zero_times_unused(self) -> Tensor:
        """0, made of the weights that a batch without images does not use.

        Their gradients are then zero and not missing. A process that waits to average them with
        those of another one would wait forever for a missing one.
        """
        parts = [self.projector, self.image_order, *self.language_model.blocks]
        return self.encode_no_images().sum() + sum(
            weight.flatten()[0] * 0 for part in parts if part is not None
            for weight in part.parameters() if weight.requires_grad)

    @torch.no_grad()
    def generate(self, input_ids: Tensor, attention_mask: Tensor | None = None,
                 pixel_values: Tensor | None = None, image_features: Tensor | None = None,
                 **kwargs) -> Tensor:
        """As MultiImageVLM.generate; keys and values of the images are computed once."""
        if kwargs.get("image_keys_values") is None:
            kwargs |= self.look(input_ids, pixel_values, image_features)
        return super().generate(input_ids, attention_mask, **kwargs)


for _door in (AutoModel, AutoModelForImageTextToText):
    _door.register(CrossAttentionConfig, CrossAttentionVLM)
