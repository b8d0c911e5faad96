"""What a training needs, made from the numbers of its settings."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial

import torch
from accelerate import Accelerator, skip_first_batches
from accelerate.state import AcceleratorState
from accelerate.utils import set_seed
from torch import nn
from torch.utils.data import DataLoader
from transformers import get_cosine_schedule_with_warmup

from vlm_utils.architecture import MultiImageProcessor, MultiImageVLM
from vlm_utils.collate import LengthGroupedSampler, collate
from vlm_utils.datasets import EncodedSamples, TaskDataset
from vlm_utils.profiles import TrainingSettings
from vlm_utils.training.optimizers import make_optimizer


@dataclass(eq=False)
class TrainingRun:
    """What a training needs, and what it has reached: all that a checkpoint holds.

    accelerator: knows device, precision and processes. wrapped: the model as accelerate hands it
    out for training. history: one row (step, loss, learning_rate, seconds) for each step.
    """

    model: MultiImageVLM
    processor: MultiImageProcessor
    settings: TrainingSettings
    accelerator: Accelerator
    wrapped: nn.Module
    optimizer: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LRScheduler
    loader: DataLoader
    history: list[dict] = field(default_factory=list)

    def batches(self) -> Iterator[dict]:
        """Batches epoch after epoch; those of the steps in the history are skipped, unread."""
        skip, per_epoch = len(self.history) * self.settings.accumulation, len(self.loader)
        sampler = self.loader.batch_sampler
        while not hasattr(sampler, "epoch"):  # accelerate may wrap it
            sampler = sampler.batch_sampler
        sampler.epoch = skip // per_epoch
        if skip % per_epoch:
            yield from skip_first_batches(self.loader, skip % per_epoch)
        while True:
            yield from self.loader

    def leave_model(self) -> None:
        """Give the model back as it came: no gradients, float32 forward, ready to evaluate."""
        self.optimizer.zero_grad(set_to_none=True)
        self.accelerator.unwrap_model(self.wrapped, keep_fp32_wrapper=False)
        self.model.eval()


def start_run(model: MultiImageVLM, processor: MultiImageProcessor,
              dataset: TaskDataset | EncodedSamples, settings: TrainingSettings,
              collate_fn: Callable | None = None) -> TrainingRun:
    """Optimizer, schedule and loader for the unfrozen parameters of a model, on its device.

    dataset: EncodedSamples if several runs share them, else they are made here. collate_fn: another
    collator than the course's. Raises ValueError naming a sample that cannot be learnt from.
    """
    set_seed(settings.seed)
    AcceleratorState._reset_state()  # a second run in one notebook may choose another precision
    accelerator = Accelerator(
        mixed_precision=settings.precision, cpu=model.device.type == "cpu")
    samples = dataset if isinstance(dataset, EncodedSamples) \
        else EncodedSamples(dataset, processor)
    sampler = LengthGroupedSampler(
        samples.lengths, settings.batch_size, settings.seed, settings.window)
    loader = DataLoader(samples, batch_sampler=sampler, collate_fn=collate_fn or partial(
        collate, pad_token_id=processor.pad_token_id))
    optimizer = make_optimizer(model, settings)
    schedule = get_cosine_schedule_with_warmup(optimizer, settings.warmup_steps, settings.steps)
    wrapped, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    return TrainingRun(model, processor, settings, accelerator, wrapped, optimizer, schedule,
                       loader)
