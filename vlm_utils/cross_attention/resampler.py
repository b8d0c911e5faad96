"""The perceiver resampler: any number of patches of an image become a fixed number of latents."""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention


class PerceiverResampler(nn.Module):
    """Learnt queries ("latents") read an image's features (Flamingo, Alayrac et al. 2022).

    In each layer the latents attend to features and latents together, then go through a
    feed-forward part. The closing LayerNorm can be given the scale of word embeddings.
    """

    def __init__(self, vision_dim: int, dim: int, latents: int, layers: int = 1, heads: int = 4):
        super().__init__()
        if dim % heads:
            raise ValueError(f"{dim} dimensions do not divide into {heads} heads")
        # An embedding and not a bare parameter: the optimizer then knows that it does not decay.
        self.latents = nn.Embedding(latents, dim)
        self.widen = nn.Linear(vision_dim, dim)
        self.layers = nn.ModuleList(ResamplerLayer(dim, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(dim)

    def forward(self, features: Tensor) -> Tensor:
        """(num_images, patches, vision_dim) -> (num_images, latents, dim)."""
        features = self.widen(features)                                 # (num_images, patches, dim)
        latents = self.latents.weight.expand(len(features), -1, -1)     # (num_images, latents, dim)
        for layer in self.layers:
            latents = layer(latents, features)
        return self.norm(latents)

    @torch.no_grad()
    def match_scale(self, embeddings: Tensor) -> None:
        """Set the size of latents to that of word embeddings `(vocabulary, dim)`."""
        self.norm.weight.fill_(embeddings.float().std().item())


class ResamplerLayer(nn.Module):
    """Latents attend to features and to each other; then each goes through a feed-forward part."""

    def __init__(self, dim: int, heads: int):
        super().__init__()
        self.heads = heads
        self.latent_norm, self.feature_norm = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.q_proj = nn.Linear(dim, dim, bias=False)
        self.kv_proj = nn.Linear(dim, 2 * dim, bias=False)
        self.o_proj = nn.Linear(dim, dim, bias=False)
        self.feed_forward = nn.Sequential(
            nn.LayerNorm(dim), nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))

    def forward(self, latents: Tensor, features: Tensor) -> Tensor:
        """latents: (num_images, latents, dim). features: (num_images, patches, dim)."""
        normed = self.latent_norm(latents)
        read = torch.cat([self.feature_norm(features), normed], dim=1)  # features and latents
        queries, keys, values = (
            rearrange(part, "n t (h d) -> n h t d", h=self.heads)
            for part in (self.q_proj(normed), *self.kv_proj(read).chunk(2, dim=-1)))
        attended = scaled_dot_product_attention(queries, keys, values)
        latents = latents + self.o_proj(rearrange(attended, "n h t d -> n t (h d)"))
        return latents + self.feed_forward(latents)
