"""The first half of the base model: a small ViT that has learnt to see, before it meets language.

ViT-B/16 comes to the course pretrained on ImageNet's labels. The tiny ViT is pretrained on labels
as well: what stands in each cell of a TinyEarth tile. Its 4 x 4 patches, merged two by two, become
one token for each of the four cells, and the classifier reads every token alone: what the tile
shows at a place is then told by the token of that place, where the language model finds it. The
classifier is thrown away.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from transformers import ViTConfig, ViTModel

from vlm_utils.architecture import merge_neighbours
from vlm_utils.tiny_earth import (
    CELLS,
    COVERS,
    GRID,
    KINDS,
    LINE_KINDS,
    LINE_PLACES,
    Scene,
    cells_on_line,
)
from vlm_utils.tiny_earth.turning import turn_tensor
from vlm_utils.training import BETAS

SIDE, PATCH, MERGE = 64, 16, 2  # pixels, pixels, patches: (64 / 16 / 2)^2 = 4 tokens
# Spread of the noise between encoder and classifier (features start at 1 and grow to 1.6). It makes
# the encoder state each label loudly: without it, in an earlier TinyEarth, place explained 6% of
# the features' variance, and a language model answered "Where is ...?" right 6 times in 10.
NOISE = 1.0
_POINTS = tuple(kind for kind in KINDS if kind not in LINE_KINDS)
# Of each cell: cover, point feature, its size, the line that goes across, the one that goes down,
# and which cell it is: a token that does not say where it stands cannot answer "Where is ...?".
CLASSES = [len(COVERS), 1 + len(_POINTS), 3, 1 + len(LINE_KINDS), 1 + len(LINE_KINDS), len(CELLS)]


def scene_labels(scene: Scene) -> np.ndarray:
    """What stands in each cell, as class numbers (4, 6) in the order of CLASSES; 0 for nothing."""
    labels = np.zeros((len(CELLS), len(CLASSES)), dtype=np.int64)
    labels[:, 0] = COVERS.index(scene.cover)
    labels[:, 5] = range(len(CELLS))
    for feature in scene.features:
        if feature.place in LINE_PLACES:
            cells = [CELLS.index(cell) for cell in cells_on_line(feature.place)]
            labels[cells, 3 + (feature.place.startswith("down"))] = \
                1 + LINE_KINDS.index(feature.kind)
        else:
            labels[CELLS.index(feature.place), 1:3] = \
                1 + _POINTS.index(feature.kind), feature.size
    return labels


def turn_labels(labels: Tensor, turn: int) -> Tensor:
    """The labels (batch, 4, 6) of turned tiles; after a quarter turn, across is down."""
    grid = labels.unflatten(1, (GRID, GRID)).movedim(-1, 1)             # (batch, 6, 2, 2)
    turned = turn_tensor(grid, turn).movedim(1, -1).flatten(1, 2)       # (batch, 4, 6)
    if turn % 2:
        turned = turned[..., [0, 1, 2, 4, 3, 5]]
    turned[..., 5] = labels[..., 5]                                     # a cell keeps its place
    return turned


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

    pixels (batch, 3, side, side), labels (batch, 4, 6). A view from above has no up or down.
    """
    turns = rng.integers(0, 8, len(pixels))
    pixels, labels = pixels.clone(), labels.clone()
    for turn in range(1, 8):
        chosen = torch.from_numpy(np.flatnonzero(turns == turn))
        pixels[chosen] = turn_tensor(pixels[chosen], turn)
        labels[chosen] = turn_labels(labels[chosen], turn)
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
    labels = torch.from_numpy(np.stack([scene_labels(scene) for scene in scenes]))
    encoder = new_encoder()
    classifier = nn.Linear(MERGE ** 2 * encoder.config.hidden_size, sum(CLASSES))
    parameters = [*encoder.parameters(), *classifier.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=0.05,
                                  betas=BETAS, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, steps, pct_start=0.1)
    for step in range(1, steps + 1):
        rows = rng.integers(0, len(labels), batch_size).tolist()
        images, truth = augment(pixels[rows], labels[rows], rng)
        patches = encoder(pixel_values=images).last_hidden_state[:, 1:]
        patches = patches + NOISE * torch.randn_like(patches)
        scores = classifier(merge_neighbours(patches, MERGE)).split(CLASSES, dim=-1)
        loss = sum(nn.functional.cross_entropy(s.flatten(0, 1), truth[..., i].flatten())
                   for i, s in enumerate(scores))
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        if step % 200 == 0:
            print(f"encoder, step {step:5d}  loss {loss.item():.3f}", flush=True)
    return encoder.eval()
