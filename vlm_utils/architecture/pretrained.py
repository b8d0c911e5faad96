"""What transformers asks of a model, so that saving, loading, checkpointing and peft work."""

from __future__ import annotations

from pathlib import Path

from torch import nn
from transformers import GenerationConfig, PreTrainedModel

from vlm_utils.architecture.config import MultiImageVLMConfig


class PretrainedVLM(PreTrainedModel):
    """A model made of vision_encoder, projector and language_model, as transformers knows models.

    What it says of itself here, and where its embeddings are, is all that save_pretrained,
    from_pretrained, gradient_checkpointing_enable, accelerate, peft and pipeline need.
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

    def save_pretrained(self, save_directory: str | Path, **options) -> None:
        """As any model of transformers. Which of the vision encoder is frozen is saved with it."""
        weights = dict(self.vision_encoder.named_parameters())
        frozen = [name for name, weight in weights.items() if not weight.requires_grad]
        self.config.encoder_trains = len(frozen) < len(weights)
        self.config.encoder_frozen = frozen if self.config.encoder_trains else []
        super().save_pretrained(save_directory, **options)

    @classmethod
    def from_pretrained(cls, *arguments, **options):
        """As any model of transformers. The vision encoder is frozen, but for what was not when
        the model was saved."""
        loaded = super().from_pretrained(*arguments, **options)
        (loaded[0] if options.get("output_loading_info") else loaded).freeze_as_saved()
        return loaded

    def freeze_as_saved(self) -> PretrainedVLM:
        """Everything trains, but what was frozen of the vision encoder when it was saved."""
        self.requires_grad_(True)
        frozen = set(self.config.encoder_frozen)
        for name, weight in self.vision_encoder.named_parameters():
            weight.requires_grad_(self.config.encoder_trains and name not in frozen)
        return self

    @classmethod
    def can_generate(cls) -> bool:
        """It has a `generate` of its own, which hands embeddings to the language model's."""
        return True

    @property
    def generation_config(self) -> GenerationConfig:
        """That of the language model, which generates."""
        return self.language_model.generation_config

    @generation_config.setter
    def generation_config(self, value: GenerationConfig) -> None:
        if hasattr(self, "language_model"):     # transformers makes one before there are any parts
            self.language_model.generation_config = value

    def adjust_generation_fn(self, generation_config: GenerationConfig | None, from_auto_class,
                             from_pipeline, folder: str | Path, **options) -> None:
        """from_pretrained calls this: take the generation_config.json that was saved, if any."""
        if generation_config is None and Path(folder, "generation_config.json").is_file():
            generation_config = GenerationConfig.from_pretrained(folder)
        if generation_config is not None:
            self.generation_config = generation_config
