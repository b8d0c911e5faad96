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
    Feature,
    Scene,
    cells_on_line,
)
from vlm_utils.tiny_earth.turning import turn_scene, turn_tensor
from vlm_utils.training import BETAS

SIDE, PATCH, MERGE = 64, 16, 2  # pixels, pixels, patches: (64 / 16 / 2)^2 = 4 tokens
CELL_PIXELS = SIDE // GRID
# Spread of the noise between encoder and classifier (features start at 1 and grow to 1.6). It makes
# the encoder state each label loudly: without it, in an earlier TinyEarth, place explained 6% of
# the features' variance, and a language model answered "Where is ...?" right 6 times in 10.
NOISE = 1.0
_POINTS = tuple(kind for kind in KINDS if kind not in LINE_KINDS)
EDGES = CELL_PIXELS + 1  # where an edge may lie within its cell, from pixel to pixel
EDGE_SPREAD = 0.7  # pixels: a neighbouring edge is nearly right
# Of one edge's loss beside that of one class. With 0.15, and the edges read from 16 of a patch's 96
# features, a language model learnt more slowly (loss 0.180 after 1,600 steps, without edges 0.134).
EDGE_WEIGHT = 0.0
# Of each cell: cover, point feature, its size, the line that goes across, the one that goes down,
# and which cell it is: a token that does not say where it stands cannot answer "Where is ...?".
CLASSES = [len(COVERS), 1 + len(_POINTS), 3, 1 + len(LINE_KINDS), 1 + len(LINE_KINDS), len(CELLS)]
# And, after these, where the box of the point feature lies (left, top, right, bottom), the edges of
# the line across (top, bottom) and of the one down (left, right). ABSENT where there is none.
NUM_EDGES = 8
ABSENT = -1
_VERTICAL = [False, True, False, True, True, True, False, False]  # moves as the tile moves down


def scene_labels(scene: Scene) -> np.ndarray:
    """What stands in each cell, and where, as class numbers (4, 6 + 8); 0 for nothing.

    The first six in the order of CLASSES; then edges, in pixels from the left or upper edge of the
    cell, ABSENT where there is no such thing.
    """
    labels = np.zeros((len(CELLS), len(CLASSES) + NUM_EDGES), dtype=np.int64)
    labels[:, 0] = COVERS.index(scene.cover)
    labels[:, 5] = range(len(CELLS))
    labels[:, 6:] = ABSENT
    for feature in scene.features:
        if feature.place in LINE_PLACES:
            down = feature.place.startswith("down")
            for cell in cells_on_line(feature.place):
                row = labels[CELLS.index(cell)]
                row[3 + down] = 1 + LINE_KINDS.index(feature.kind)
                row[[12, 13] if down else [10, 11]] = \
                    _edges_in_cell(feature, cell)[[0, 2] if down else [1, 3]]
        else:
            row = labels[CELLS.index(feature.place)]
            row[1:3] = 1 + _POINTS.index(feature.kind), feature.size
            row[6:10] = _edges_in_cell(feature, feature.place)
    return labels


def _edges_in_cell(feature: Feature, cell: str) -> np.ndarray:
    """Left, top, right, bottom edge of a feature's box in pixels of a cell; ABSENT if unknown."""
    if feature.box is None:
        return np.full(4, ABSENT)
    row, column = divmod(CELLS.index(cell), GRID)
    corner = CELL_PIXELS * np.array([column, row, column, row])
    return np.clip(np.round(np.array(feature.box) * SIDE / 100).astype(int) - corner,
                   0, CELL_PIXELS)


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


def turned_labels(scenes: Sequence[Scene]) -> Tensor:
    """The labels (scenes, 8, 4, 14) of tiles in each of their orientations."""
    return torch.from_numpy(np.stack([
        [scene_labels(turn_scene(scene, orientation)) for orientation in range(8)]
        for scene in scenes]).astype(np.int8))


def augment(pixels: Tensor, labels: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Tiles turned and mirrored with their labels, shifted by a pixel, in another light.

    pixels (batch, 3, side, side), labels (batch, 8, 4, 14) in each orientation; returns pixels and
    labels (batch, 4, 14). A view from above has no up or down.
    """
    orientations = torch.from_numpy(rng.integers(0, 8, len(pixels)))
    pixels = pixels.clone()
    labels = labels[torch.arange(len(pixels)), orientations].long()         # (batch, 4, 14)
    for orientation in range(1, 8):
        chosen = torch.nonzero(orientations == orientation).flatten()
        pixels[chosen] = turn_tensor(pixels[chosen], orientation)
    down, right = (int(shift) for shift in rng.integers(-1, 2, 2))
    pixels = torch.roll(pixels, (down, right), (-2, -1))
    edges = labels[..., len(CLASSES):]                                      # (batch, 4, 8)
    moved = edges + torch.where(torch.tensor(_VERTICAL), down, right)
    labels[..., len(CLASSES):] = torch.where(
        edges == ABSENT, ABSENT, moved.clamp(0, CELL_PIXELS))
    gain = torch.from_numpy(rng.normal(1, 0.1, (len(pixels), 1, 1, 1))).float()
    tint = torch.from_numpy(rng.normal(0, 0.1, (len(pixels), 3, 1, 1))).float()
    return pixels * gain + tint, labels


def edge_loss(scores: Tensor, edges: Tensor) -> Tensor:
    """Cross-entropy of edges, as far as there are any: an edge a pixel away is nearly right.

    scores (..., 8, EDGES), edges (..., 8) in pixels or ABSENT. Returns the mean over the edges that
    there are, times the number of edges of a cell; 0 if there are none.
    """
    known = edges != ABSENT
    if not known.any():
        return scores.sum() * 0
    away = torch.arange(EDGES) - edges[known][:, None]                      # (known, EDGES)
    likely = torch.softmax(-(away / EDGE_SPREAD) ** 2 / 2, dim=-1)
    return NUM_EDGES * nn.functional.cross_entropy(scores[known], likely)


def pretrain_encoder(pixels, scenes: Sequence[Scene], steps: int, batch_size: int = 128,
                     learning_rate: float = 2e-3, seed: int = 0) -> ViTModel:
    """Train a new encoder to tell what stands where, and return it without the classifier.

    pixels: indexed by a list of rows, gives (rows, 3, side, side); scenes: one a row.
    """
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    labels = turned_labels(scenes)
    encoder = new_encoder()
    outputs = [*CLASSES, NUM_EDGES * EDGES]
    classifier = nn.Linear(MERGE ** 2 * encoder.config.hidden_size, sum(outputs))
    parameters = [*encoder.parameters(), *classifier.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=0.05,
                                  betas=BETAS, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, steps, pct_start=0.1)
    for step in range(1, steps + 1):
        rows = rng.integers(0, len(scenes), batch_size).tolist()
        images, truth = augment(pixels[rows], labels[rows], rng)
        patches = encoder(pixel_values=images).last_hidden_state[:, 1:]
        patches = patches + NOISE * torch.randn_like(patches)
        *scores, edges = classifier(merge_neighbours(patches, MERGE)).split(outputs, dim=-1)
        loss = sum(nn.functional.cross_entropy(s.flatten(0, 1), truth[..., i].flatten())
                   for i, s in enumerate(scores))
        loss = loss + EDGE_WEIGHT * edge_loss(
            edges.unflatten(-1, (NUM_EDGES, EDGES)), truth[..., len(CLASSES):])
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        if step % 200 == 0:
            print(f"encoder, step {step:5d}  loss {loss.item():.3f}", flush=True)
    return encoder.eval()
