"""The first half of the base model: a small ViT that has learnt to see, before it meets language.

ViT-B/16 comes to the course pretrained on ImageNet's labels. The tiny ViT is pretrained the same
way, on what stands in each of the nine cells of a TinyEarth tile; the classifier is thrown away.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from transformers import ViTConfig, ViTModel

from vlm_utils.tiny_earth import COVERS, KINDS, LINE_PLACES, PLACES, Scene
from vlm_utils.turning import label_order, turn_tensor

SIDE, PATCH = 64, 16
_LINES = ("river", "road")
_POINTS = tuple(kind for kind in KINDS if kind not in _LINES)
# One classifier for the cover, one a cell for the kind, one a cell for the size, one a line.
CLASSES = [len(COVERS)] + [len(_POINTS) + 1] * 9 + [4] * 9 + [len(_LINES) + 1] * 6


def scene_labels(scene: Scene) -> list[int]:
    """A scene as 25 class numbers: cover, 9 kinds, 9 sizes, 6 lines; 0 where nothing stands."""
    kinds, sizes, lines = [0] * 9, [0] * 9, [0] * 6
    for feature in scene.features:
        if feature.kind in _LINES:
            lines[LINE_PLACES.index(feature.place)] = 1 + _LINES.index(feature.kind)
        else:
            cell = PLACES.index(feature.place)
            kinds[cell] = 1 + _POINTS.index(feature.kind)
            sizes[cell] = feature.size
    return [COVERS.index(scene.cover), *kinds, *sizes, *lines]


def new_encoder() -> ViTModel:
    """A 3-layer ViT with random weights.

    Its position embeddings start large: next to the strong colours of a tile, small ones would
    leave all patches alike, and the encoder blind to places for thousands of steps.
    """
    config = ViTConfig(hidden_size=96, num_hidden_layers=3, num_attention_heads=4,
                       intermediate_size=384, image_size=SIDE, patch_size=PATCH,
                       initializer_range=0.1)
    encoder = ViTModel(config, add_pooling_layer=False)
    with torch.no_grad():
        encoder.embeddings.position_embeddings.normal_(0, 0.5)
        encoder.embeddings.patch_embeddings.projection.weight.normal_(0, 0.02)
    return encoder


def augment(pixels: Tensor, labels: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Tiles turned and mirrored with their labels, shifted by a pixel, in another light.

    pixels (batch, 3, side, side), labels (batch, 25). A view from above has no up or down.
    """
    turns = rng.integers(0, 8, len(pixels))
    pixels, labels = pixels.clone(), labels.clone()
    for turn in range(8):
        chosen = torch.from_numpy(np.flatnonzero(turns == turn))
        pixels[chosen] = turn_tensor(pixels[chosen], turn)
        labels[chosen] = labels[chosen][:, label_order(turn)]
    down, right = rng.integers(-1, 2, 2)
    pixels = torch.roll(pixels, (int(down), int(right)), (-2, -1))
    gain = torch.from_numpy(rng.normal(1, 0.1, (len(pixels), 1, 1, 1))).float()
    tint = torch.from_numpy(rng.normal(0, 0.1, (len(pixels), 3, 1, 1))).float()
    return pixels * gain + tint, labels


def pretrain_encoder(pixels, scenes: Sequence[Scene], steps: int, batch_size: int = 128,
                     learning_rate: float = 2e-3, seed: int = 0) -> ViTModel:
    """Train a new encoder to tell what stands where, and return it without the classifier.

    pixels: indexed by a list of rows, gives (rows, 3, side, side); scenes: one a row.
    """
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    labels = torch.tensor([scene_labels(scene) for scene in scenes])
    encoder = new_encoder()
    classifier = nn.Linear((SIDE // PATCH) ** 2 * encoder.config.hidden_size, sum(CLASSES))
    parameters = [*encoder.parameters(), *classifier.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=0.05,
                                  betas=(0.9, 0.98), fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, steps, pct_start=0.1)
    for step in range(1, steps + 1):
        rows = rng.integers(0, len(labels), batch_size).tolist()
        images, truth = augment(pixels[rows], labels[rows], rng)
        states = encoder(pixel_values=images).last_hidden_state[:, 1:]    # (batch, patches, dim)
        scores = classifier(states.flatten(1)).split(CLASSES, dim=1)
        loss = sum(nn.functional.cross_entropy(s, truth[:, i]) for i, s in enumerate(scores))
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        if step % 200 == 0:
            print(f"encoder, step {step:5d}  loss {loss.item():.3f}", flush=True)
    return encoder.eval()
