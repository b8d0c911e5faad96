"""A Llama whose layers look at images beside the sequence, through gated cross-attention.

The images come as arguments of `forward`: nothing is hooked in, and no module remembers anything
between two calls. The names of the base's weights stay, so its state_dict can be loaded.
"""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AutoModelForCausalLM, LlamaForCausalLM
from transformers.initialization import constant_
from transformers.models.llama.modeling_llama import (
    LlamaDecoderLayer,
    LlamaMLP,
    LlamaModel,
    LlamaRMSNorm,
)

from vlm_utils.cross_attention.config import CrossAttentionLlamaConfig


class GatedCrossAttention(nn.Module):
    """Text states attend to image states; tanh(gate) says how much of the result is added.

    With all gates at zero the states leave as they came, to the bit (Flamingo, Alayrac et al.
    2022). Heads are shared as in the language model's own attention.
    """

    def __init__(self, config: CrossAttentionLlamaConfig):
        super().__init__()
        dim, self.head_dim = config.hidden_size, config.head_dim
        heads, key_heads = config.num_attention_heads, config.num_key_value_heads
        self.norm = LlamaRMSNorm(dim, eps=config.rms_norm_eps)
        self.image_norm = LlamaRMSNorm(dim, eps=config.rms_norm_eps)
        self.q_proj = nn.Linear(dim, heads * self.head_dim, bias=False)
        self.k_proj = nn.Linear(dim, key_heads * self.head_dim, bias=False)
        self.v_proj = nn.Linear(dim, key_heads * self.head_dim, bias=False)
        self.o_proj = nn.Linear(heads * self.head_dim, dim, bias=False)
        self.gate = nn.Parameter(torch.full((1,), float(config.initial_gate)))
        self.feed_forward = None
        if config.gated_feed_forward:
            self.feed_forward_norm = LlamaRMSNorm(dim, eps=config.rms_norm_eps)
            self.feed_forward = LlamaMLP(config)
            self.feed_forward_gate = nn.Parameter(torch.full((1,), float(config.initial_gate)))

    def keys_values(self, image_states: Tensor) -> Tensor:
        """(batch, image_states, dim) -> (batch, 2, key_heads, image_states, head_dim)."""
        normed = self.image_norm(image_states)
        return torch.stack([rearrange(part, "b i (h d) -> b h i d", d=self.head_dim)
                            for part in (self.k_proj(normed), self.v_proj(normed))], dim=1)

    def forward(self, states: Tensor, keys_values: Tensor, mask: Tensor) -> Tensor:
        """Text states (batch, length, dim), with what they saw of the images.

        keys_values: (batch, 2, key_heads, image_states, head_dim). mask: (batch, length,
        image_states), bool, what each place sees. A place that sees nothing leaves as it came.
        """
        sees = mask.any(dim=-1, keepdim=True)                           # (batch, length, 1)
        queries = rearrange(self.q_proj(self.norm(states)), "b t (h d) -> b h t d", d=self.head_dim)
        keys, values = keys_values.unbind(dim=1)
        # A row that may attend to nothing would be NaN: it attends to all, and is left out below.
        attended = scaled_dot_product_attention(
            queries, keys, values, attn_mask=(mask | ~sees).unsqueeze(1), enable_gqa=True)
        attended = self.o_proj(rearrange(attended, "b h t d -> b t (h d)"))
        changed = states + self.gate.tanh() * attended
        if self.feed_forward is not None:
            changed = changed + self.feed_forward_gate.tanh() * self.feed_forward(
                self.feed_forward_norm(changed))
        return torch.where(sees, changed, states)

    @torch.no_grad()
    def copy_attention(self, layer: LlamaDecoderLayer) -> None:
        """Start as a copy of the layer's self-attention: it knows how to look things up."""
        for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
            getattr(self, name).weight.copy_(getattr(layer.self_attn, name).weight)
        for norm in (self.norm, self.image_norm):
            norm.weight.copy_(layer.input_layernorm.weight)


class CrossAttentionLayer(LlamaDecoderLayer):
    """A Llama layer, with a gated cross-attention block before it or none."""

    def __init__(self, config: CrossAttentionLlamaConfig, layer_idx: int):
        super().__init__(config, layer_idx)
        chosen = sorted(set(config.cross_attention_layers or []))   # as `blocks` counts them
        self.block = chosen.index(layer_idx) if layer_idx in chosen else None
        self.cross_attention = None if self.block is None else GatedCrossAttention(config)

    def forward(self, hidden_states: Tensor, image_keys_values: Tensor | None = None,
                image_mask: Tensor | None = None, **kwargs) -> Tensor:
        """image_keys_values, image_mask: see CrossAttentionLlama.forward."""
        if self.cross_attention is not None and image_keys_values is not None:
            hidden_states = self.cross_attention(
                hidden_states, image_keys_values[:, self.block], image_mask)
        return super().forward(hidden_states, **kwargs)


class WithBlocks:
    """What transformers must know of a Llama with cross-attention blocks."""

    config_class = CrossAttentionLlamaConfig
    _no_split_modules = ["CrossAttentionLayer"]

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, GatedCrossAttention):
            for name, _ in module.named_parameters(recurse=False):
                constant_(getattr(module, name), self.config.initial_gate)


class CrossAttentionLlamaModel(WithBlocks, LlamaModel):
    """Llama's body, each layer one of CrossAttentionLayer."""

    def __init__(self, config: CrossAttentionLlamaConfig):
        super().__init__(config)
        self.layers = nn.ModuleList(
            CrossAttentionLayer(config, index) for index in range(config.num_hidden_layers))
        self.post_init()


class CrossAttentionLlama(WithBlocks, LlamaForCausalLM):
    """A Llama that takes images as arguments: `image_keys_values` and `image_mask`."""

    def __init__(self, config: CrossAttentionLlamaConfig):
        super().__init__(config)
        self.model = CrossAttentionLlamaModel(config)
        self.post_init()

    @property
    def blocks(self) -> list[GatedCrossAttention]:
        """The cross-attention blocks, from the first layer to the last."""
        return [layer.cross_attention for layer in self.model.layers
                if layer.cross_attention is not None]

    def keys_values(self, image_states: Tensor) -> Tensor:
        """Of all blocks: (batch, image_states, dim) -> (batch, blocks, 2, key_heads, image_states,
        head_dim). The batch comes first, so that `generate` can repeat it for beams."""
        return torch.stack([block.keys_values(image_states) for block in self.blocks], dim=1)

    def forward(self, input_ids: Tensor | None = None, attention_mask: Tensor | None = None,
                image_keys_values: Tensor | None = None, image_mask: Tensor | None = None,
                **kwargs):
        """As Llama's. image_keys_values: see keys_values; None: there is no image.
        image_mask: (batch, length, image_states), bool, what each place sees."""
        return super().forward(input_ids=input_ids, attention_mask=attention_mask,
                               image_keys_values=image_keys_values, image_mask=image_mask, **kwargs)

    def prepare_inputs_for_generation(self, input_ids: Tensor, inputs_embeds=None,
                                      image_keys_values=None, image_mask=None, **kwargs) -> dict:
        """As Llama's, with the rows of the mask for the places that are computed now: a new token
        sees what the last one of the prompt sees."""
        inputs = super().prepare_inputs_for_generation(
            input_ids, inputs_embeds=inputs_embeds, **kwargs)
        if image_keys_values is not None:
            now = inputs.get("inputs_embeds")
            now = (inputs["input_ids"] if now is None else now).shape[1]
            cache = kwargs.get("past_key_values")
            done = 0 if cache is None else cache.get_seq_length()
            rows = torch.arange(done, done + now, device=image_mask.device)
            inputs["image_keys_values"] = image_keys_values
            inputs["image_mask"] = image_mask[:, rows.clamp(max=image_mask.shape[1] - 1)]
        return inputs


AutoModelForCausalLM.register(CrossAttentionLlamaConfig, CrossAttentionLlama)
