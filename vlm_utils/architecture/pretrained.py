"""What transformers asks of a model, so that saving, loading, checkpointing and peft work."""

from __future__ import annotations

from torch import nn
from transformers import PreTrainedModel

from vlm_utils.architecture.config import MultiImageVLMConfig


class PretrainedVLM(PreTrainedModel):
    """A model made of vision_encoder, projector and language_model, as transformers knows models.

    What it says of itself here, and where its embeddings are, is all that save_pretrained,
    from_pretrained, gradient_checkpointing_enable, accelerate and peft need.
    """

    config_class = MultiImageVLMConfig
    base_model_prefix = ""
    main_input_name = "input_ids"
    input_modalities = ("image", "text")
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _no_split_modules = ["ViTLayer", "LlamaDecoderLayer"]
    _tied_weights_keys = {
        "language_model.lm_head.weight": "language_model.model.embed_tokens.weight"}

    def get_input_embeddings(self) -> nn.Module:
        return self.language_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.language_model.set_input_embeddings(value)

    def get_output_embeddings(self) -> nn.Module:
        return self.language_model.get_output_embeddings()

    def set_output_embeddings(self, value: nn.Module) -> None:
        self.language_model.set_output_embeddings(value)

    def resize_token_embeddings(self, new_num_tokens: int, **kwargs) -> nn.Module:
        embeddings = self.language_model.resize_token_embeddings(new_num_tokens, **kwargs)
        self.config.text_config = self.language_model.config
        return embeddings

    def freeze_vision_encoder(self) -> PretrainedVLM:
        """The course trains the projector and the language model only."""
        self.vision_encoder.requires_grad_(False)
        return self
