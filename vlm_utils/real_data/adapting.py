"""A new domain: what a frozen encoder costs there, and what helps."""

from __future__ import annotations

from collections import defaultdict

import pandas as pd
import torch
from torch import nn

from vlm_utils.architecture import (
    MultiImageProcessor,
    MultiImageVLM,
    TwoPathConfig,
    TwoPathEncoder,
)
from vlm_utils.datasets import ImageTable, TaskDataset, build_tasks
from vlm_utils.evaluation import evaluate, evaluate_with_controls, wilson_interval
from vlm_utils.training import encode_table


def unfreeze_encoder(model: MultiImageVLM, layers: int | None = None) -> MultiImageVLM:
    """Let the vision encoder train too: all of it, or its last layers and what follows them.

    layers: how many of its transformer layers, counted from the end. Images can then no longer be
    encoded beforehand: each step has to look at them again. Raises ValueError for a number of
    layers that the encoder does not have, and for a whole encoder of two paths (its ViT stays).
    """
    encoder = model.vision_encoder
    if isinstance(encoder, TwoPathEncoder):
        raise ValueError("an encoder of two paths keeps its ViT as it is; grow_encoder left the "
                         "other path unfrozen: encoder.conv_path.requires_grad_(True)")
    count = len(encoder.layers)
    if layers is not None and not 1 <= layers <= count:
        raise ValueError(f"layers={layers}: the vision encoder has {count} layers; None trains all "
                         "of it, its patch embedding included")
    encoder.requires_grad_(layers is None)
    if layers is not None:
        for part in (*encoder.layers[count - layers:], encoder.layernorm):
            part.requires_grad_(True)
    return model


def grow_encoder(model: MultiImageVLM, seed: int = 0, **shapes) -> MultiImageVLM:
    """Put convolutions beside the model's ViT; until they are trained, nothing else changes.

    The projector gets a column for each number of the new path, all zeros: image tokens stay what
    they were, up to rounding, as with gates at zero (lesson 08). The ViT is frozen and the new path
    trains. shapes: of TwoPathConfig (widths, conv_size). Changes the model in place and returns it.
    Raises ValueError for a model that has two paths already.
    """
    old = model.vision_encoder
    if isinstance(old, TwoPathEncoder):
        raise ValueError("the vision encoder has two paths already")
    config = TwoPathConfig(old.config, **shapes)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        encoder = TwoPathEncoder(config).to(model.device, model.dtype)
    encoder.vit = old.requires_grad_(False)
    model.vision_encoder = encoder.eval()
    first: nn.Linear = model.projector.layers[0]
    model.projector.layers[0] = _with_columns(first, old.config.hidden_size, config.conv_size)
    model.config.vision_config = config
    return model


def _with_columns(layer: nn.Linear, known: int, new: int) -> nn.Linear:
    """A linear layer over groups of `known` numbers that also reads `new` zeros after each."""
    wide = nn.Linear(layer.in_features // known * (known + new), layer.out_features,
                     device=layer.weight.device, dtype=layer.weight.dtype)
    with torch.no_grad():
        weight = torch.zeros_like(wide.weight).unflatten(1, (-1, known + new))
        weight[..., :known] = layer.weight.unflatten(1, (-1, known))
        wide.weight.copy_(weight.flatten(1))
        wide.bias.copy_(layer.bias)
    return wide


def measure_domains(model: MultiImageVLM, processor: MultiImageProcessor,
                    tables: dict[str, ImageTable], mixture: dict[str, int], seed: int = 1,
                    controls: bool = False) -> pd.DataFrame:
    """The accuracy of a model in each of several domains, with its interval.

    tables: by the name of the domain. mixture: questions of each task and number of images
    (build_tasks); what a table cannot tell is left out. controls: also blind and shuffled. One row
    for each domain, task and number of images, with the columns of `evaluate`, and images: how many
    different ones the questions show. If these are fewer than the questions, the interval counts
    them instead: 200 questions about six pictures are not 200 independent ones. The tables are left
    with the features of this model's encoder.
    """
    parts = []
    for name, table in tables.items():
        table.image_features = encode_table(table, model, processor)
        asked = build_tasks(table, mixture, seed=seed)
        measured = (evaluate_with_controls if controls else evaluate)(model, processor, asked)
        parts.append(count_images(measured, asked).assign(domain=name))
    result = pd.concat(parts, ignore_index=True)
    return result[["domain", *result.columns.drop("domain")]]


def count_images(measured: pd.DataFrame, asked: TaskDataset) -> pd.DataFrame:
    """With a column of the different images of each row's questions; no more than these are counted
    in its interval."""
    shown = defaultdict(set)
    for recipe in asked.recipes:
        shown[recipe.task, recipe.num_images].update(recipe.rows)
    measured = measured.assign(images=[len(shown[row.task, row.num_images])
                                       for row in measured.itertuples()])
    for row in measured.itertuples():
        if row.images < row.samples:
            measured.loc[row.Index, ["low", "high"]] = wilson_interval(
                round(row.accuracy * row.images), row.images)
    return measured
