"""The configuration of the model: both halves, and how they are joined."""

from __future__ import annotations

from transformers import AutoConfig, PreTrainedConfig


class MultiImageVLMConfig(PreTrainedConfig):
    """Everything that is needed to build the model again: both halves, and how they are joined.

    vision_config, text_config: configurations of the vision encoder and the language model.
    image_token_id: the placeholder token that image embeddings replace.
    merge_factor: each square of merge_factor x merge_factor patches becomes one token.
    max_images: the most images a sample may hold, as many as there are identifier tokens.
    encoder_trains: the vision encoder was not frozen when the model was saved.
    encoder_frozen: the weights of it that were frozen all the same, by name.
    """

    model_type = "multi_image_vlm"
    keys_to_ignore_at_inference = ["past_key_values"]   # Trainer gathers logits alone
    sub_configs = {"vision_config": AutoConfig, "text_config": AutoConfig}

    def __init__(self, vision_config=None, text_config=None, image_token_id=0, merge_factor=2,
                 max_images=8, encoder_trains=False, encoder_frozen=(), **kwargs):
        self.vision_config = _as_config(vision_config, "vit")
        self.text_config = _as_config(text_config, "llama")
        self.image_token_id = image_token_id
        self.merge_factor = merge_factor
        self.max_images = max_images
        self.encoder_trains, self.encoder_frozen = encoder_trains, list(encoder_frozen)
        kwargs.setdefault("tie_word_embeddings", self.text_config.tie_word_embeddings)
        super().__init__(**kwargs)

    @property
    def patches_per_image(self) -> int:
        return (self.vision_config.image_size // self.vision_config.patch_size) ** 2

    @property
    def tokens_per_image(self) -> int:
        """Placeholders that one image takes up in the prompt."""
        return self.patches_per_image // self.merge_factor**2


def _as_config(config, default_type: str) -> PreTrainedConfig:
    if isinstance(config, PreTrainedConfig):
        return config
    settings = dict(config or {})
    return AutoConfig.for_model(settings.pop("model_type", default_type), **settings)
