"""What each part of a training step costs, one change at a time.

A ladder from a naive step to the course's own. Each rung changes one thing, keeps the changes of
those under it, and trains on the same batches. Nothing here is needed to train.

At full size the memory is what counts: rungs share their weights, and one copy of those that are
trained is alive at a time. 222 million parameters then take 3.3 GB with gradients and AdamW's
numbers, and a naive batch of 2 samples about as much again for its activations.
"""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pandas as pd
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import Tensor, nn
from torch.nn import functional

from vlm_utils.architecture import (
    IGNORED,
    MultiImageProcessor,
    MultiImageVLM,
    MultiImageVLMOutput,
    Projector,
)
from vlm_utils.collate import LengthGroupedSampler, collate
from vlm_utils.datasets import Recipe, TaskDataset, encode_text
from vlm_utils.profiles import TrainingSettings, half_precision
from vlm_utils.training.loop import training_step
from vlm_utils.training.optimizers import make_optimizer

_HALF = {"bf16": "bfloat16", "fp16": "float16"}
TEXT_LENGTH = 128  # tokens that a naive step keeps free for each text, its images aside


@dataclass(frozen=True)
class Rung:
    """One way to train: a model, its batches and its precision.

    change: what differs from the rung before. model: called as MultiImageVLM is, with a batch,
    loss_weights and num_items_in_batch. seconds_once: what the change costs before training.
    """

    name: str
    change: str
    model: nn.Module
    batches: list[dict[str, Tensor]]
    precision: str = "no"
    seconds_once: float = 0.0


def climb(model: MultiImageVLM, processor: MultiImageProcessor, dataset: TaskDataset,
          batch_size: int = 8, steps: int = 10) -> pd.DataFrame:
    """Train for a few steps on each rung: rung, change, first_loss, seconds_once,
    samples_per_second and times_naive.

    first_loss: of the first batch, before any weight has moved. The model is left as it is: copies
    of it are trained. Takes the first batch_size x steps samples, or as many whole batches as there
    are; raises ValueError if there is none.
    """
    cuda = [model.device] if model.device.type == "cuda" else []
    rows = []
    with torch.random.fork_rng(devices=cuda):  # a new projector draws random numbers
        for rung in build_rungs(model, processor, dataset, batch_size, steps):
            trained = share_weights(rung.model, only_frozen=True).train()
            step = make_step(trained, rung.precision)
            rows.append({"rung": rung.name, "change": rung.change,
                         "first_loss": step(rung.batches[0]), "seconds_once": rung.seconds_once,
                         "samples_per_second": samples_per_second(
                             step, rung.batches, warmup=min(2, len(rung.batches) // 2))})
            del trained, step   # and their weights, before the next rung has its own
    table = pd.DataFrame(rows)
    table["times_naive"] = table["samples_per_second"] / table["samples_per_second"][0]
    return table


def samples_per_second(step: Callable[[dict], float], batches: Sequence[dict[str, Tensor]],
                       warmup: int = 2) -> float:
    """The median over the batches, after a few steps that do not count.

    The first steps allocate memory and choose kernels; the median shrugs off a disturbance.
    """
    for batch in batches[:warmup]:
        step(batch)
    speeds = []
    for batch in batches:
        started = time.perf_counter()
        step(batch)
        speeds.append(len(batch["input_ids"]) / (time.perf_counter() - started))
    return statistics.median(speeds)


def make_step(model: nn.Module, precision: str = "no") -> Callable[[dict], float]:
    """`training_step` with a new optimizer: from a batch to moved weights and the loss before."""
    device = next(model.parameters()).device
    AcceleratorState._reset_state()
    accelerator = Accelerator(mixed_precision=precision, cpu=device.type == "cpu")
    optimizer = accelerator.prepare(make_optimizer(model, TrainingSettings(steps=1)))

    def step(batch: dict[str, Tensor]) -> float:
        batch = {name: values.to(device) for name, values in batch.items()}
        return training_step(accelerator, model, optimizer, [batch], average="tokens")
    return step


def build_rungs(model: MultiImageVLM, processor: MultiImageProcessor, dataset: TaskDataset,
                batch_size: int, steps: int) -> list[Rung]:
    """The rungs from the bottom, each over the same samples in the same batches."""
    merged = share_weights(model).freeze_vision_encoder().eval()
    unmerged, unmerged_processor = use_every_patch(merged, processor)
    groups = group_by_length(dataset.recipes[:batch_size * steps], processor, batch_size)
    rows = sorted({row for group in groups for recipe in group for row in recipe.rows})
    pixels = processor.pixel_values([dataset.table.image(row) for row in rows])
    started = time.perf_counter()
    features = torch.cat([merged.encode_images(part.to(model.device)).cpu()
                          for part in pixels.split(64)])             # (rows, patches, dim)
    seconds = time.perf_counter() - started

    images = {"pixel_values": dict(zip(rows, pixels, strict=True))}
    encoded = {"image_features": dict(zip(rows, features, strict=True))}
    naive = make_batches(groups, unmerged_processor, images, TEXT_LENGTH)
    once = make_batches(groups, unmerged_processor, encoded, TEXT_LENGTH)
    fewer = make_batches(groups, processor, encoded, TEXT_LENGTH)
    dynamic = make_batches(groups, processor, encoded)
    tokens = unmerged.config.tokens_per_image, merged.config.tokens_per_image
    rungs = [
        Rung("naive", "images anew, all patches, fixed length, all logits",
             EncodingEachImage(unmerged), naive),
        Rung("features once", "images encoded before training", AllLogits(unmerged), once,
             seconds_once=seconds),
        Rung("fewer tokens", f"{tokens[1]} tokens an image, not {tokens[0]}", AllLogits(merged),
             fewer),
        Rung("dynamic padding", "padded to the longest of the batch", AllLogits(merged), dynamic),
        Rung("answer logits only", "logits where the loss reads them", merged, dynamic)]
    half = best_half_precision(model.device)
    if half:
        rungs.append(Rung(_HALF[half], "matrix products in half precision", merged, dynamic, half))
    return rungs


def best_half_precision(device: torch.device) -> str | None:
    """What the last rung multiplies in: "bf16" or, on a GPU without it, "fp16"; None on Apple's
    MPS, where the course stays with float32."""
    if device.type == "mps":
        return None
    return "bf16" if device.type == "cpu" else half_precision()


def share_weights(model: nn.Module, only_frozen: bool = False) -> nn.Module:
    """A copy of a model's modules over the same numbers: no memory for weights.

    What is set for one (frozen, training, another projector) leaves the other as it is; steps
    would move both. only_frozen: weights that are trained get numbers of their own.
    """
    shared = {id(p): nn.Parameter(p.detach(), requires_grad=p.requires_grad)
              for p in model.parameters() if not (only_frozen and p.requires_grad)}
    return copy.deepcopy(model, shared)


# What a step computes: modules that are called as the course's model is.

class AllLogits(nn.Module):
    """Logits for every position, though the loss reads those of the answers only."""

    def __init__(self, model: MultiImageVLM):
        super().__init__()
        self.model = model

    def forward(self, labels: Tensor, loss_weights: Tensor, num_items_in_batch: Tensor,
                **batch) -> MultiImageVLMOutput:
        logits = self.model(**batch).logits                          # (batch, length, vocabulary)
        losses = functional.cross_entropy(
            logits[:, :-1].flatten(0, 1).float(), labels[:, 1:].flatten(), ignore_index=IGNORED,
            reduction="none")
        weighted = losses * loss_weights[:, 1:].flatten()
        return MultiImageVLMOutput(loss=weighted.sum() / num_items_in_batch)


class EncodingEachImage(AllLogits):
    """Every image through the vision encoder, one by one, at every step."""

    def forward(self, pixel_values: Tensor, **batch) -> MultiImageVLMOutput:
        features = [self.model.encode_images(image.unsqueeze(0)) for image in pixel_values]
        return super().forward(image_features=torch.cat(features), **batch)


def use_every_patch(model: MultiImageVLM, processor: MultiImageProcessor
                    ) -> tuple[MultiImageVLM, MultiImageProcessor]:
    """Copies of a model and its processor that make a token of every patch.

    The projector reads one patch instead of several, so it is a new, random one. Its loss says
    nothing; the speed of a step does not depend on the weights.
    """
    model, processor = share_weights(model), copy.copy(processor)
    embeddings, config = model.get_input_embeddings().weight, model.config
    config.merge_factor = 1
    model.projector = Projector(
        config.vision_config.hidden_size, config.text_config.hidden_size, merge_factor=1)
    model.projector.to(embeddings.device, embeddings.dtype).match_scale(embeddings)
    processor.tokens_per_image = config.tokens_per_image
    return model, processor


def group_by_length(recipes: Sequence[Recipe], processor: MultiImageProcessor,
                    batch_size: int) -> list[list[Recipe]]:
    """Whole batches of samples of similar length, as training draws them.

    Every rung gets these batches: while all are padded to one length, grouping changes nothing.
    """
    lengths = [len(encode_text(recipe, processor)["input_ids"]) for recipe in recipes]
    sampler = LengthGroupedSampler(lengths, batch_size, window=TrainingSettings.window)
    return [[recipes[i] for i in chosen] for chosen in sampler]


def make_batches(groups: Sequence[Sequence[Recipe]], processor: MultiImageProcessor,
                 images: dict[str, dict[int, Tensor]],
                 text_length: int | None = None) -> list[dict[str, Tensor]]:
    """One batch a group. images: {"pixel_values" or "image_features": {row of the table: tensor}}.

    text_length: pad to so many tokens beside the most images of any sample; None: to the longest
    sample of the batch. A longer sample is not cut.
    """
    (key, values), = images.items()
    most = max(len(recipe.rows) for group in groups for recipe in group)
    batches = []
    for group in groups:
        batch = collate([encode_text(recipe, processor) for recipe in group],
                        processor.pad_token_id)
        if text_length is not None:
            length = most * processor.tokens_per_image + text_length
            batch = pad_further(batch, length, processor.pad_token_id)
        batch[key] = torch.stack([values[row] for recipe in group for row in recipe.rows])
        batches.append(batch)
    return batches


def pad_further(batch: dict[str, Tensor], length: int, pad_token_id: int) -> dict[str, Tensor]:
    """Texts (batch, longest) padded on the right to (batch, length), if they are not longer."""
    missing = max(0, length - batch["input_ids"].shape[1])
    padding = {"input_ids": pad_token_id, "attention_mask": 0, "labels": IGNORED}
    return {name: functional.pad(batch[name], (0, missing), value=value)
            for name, value in padding.items()}
