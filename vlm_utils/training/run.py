"""What a training needs, made from the numbers of its settings."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path

import torch
from accelerate import Accelerator, skip_first_batches
from accelerate.data_loader import prepare_data_loader
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedDataParallelKwargs, GradScalerKwargs, set_seed
from torch import Tensor, nn
from torch.utils.data import DataLoader, Sampler
from transformers import get_cosine_schedule_with_warmup

from vlm_utils.architecture import MultiImageProcessor, MultiImageVLM
from vlm_utils.collate import LengthGroupedSampler, collate
from vlm_utils.datasets import EncodedSamples, TaskDataset
from vlm_utils.profiles import TrainingSettings
from vlm_utils.training.faster import slow_down, speed_up
from vlm_utils.training.fingerprints import describe_samples
from vlm_utils.training.optimizers import make_optimizer

# What float16 gradients are multiplied by at first. torch begins with 65,536, at which those of
# these models overflow, so that the first steps of a run were lost; it doubles every 2,000 steps.
FIRST_SCALE = 2.0**10


class Copies:
    """Every process has the whole model; gradients are averaged in each step (DDP).

    `scaling.Shards` is the other way. What a layout does, and when: wrap a model before its
    optimizer is made, hand out whole weights for a checkpoint, write and read the optimizer's state
    in a folder. All processes call each method together.
    """

    name = "copies"

    def wrap(self, model: nn.Module, accelerator: Accelerator) -> nn.Module:
        """The model as it is called in training. Afterwards all copies are those of process 0."""
        return accelerator.prepare(model)

    def weights(self, run: TrainingRun) -> dict[str, Tensor] | None:
        """The weights that process 0 saves. None: those of its own model."""
        return None

    def write_state(self, folder: Path, run: TrainingRun) -> None:
        """Nothing: process 0 writes the optimizer's state, which is the same in all."""

    def read_state(self, folder: Path, run: TrainingRun, state: dict) -> None:
        """Give the optimizer its state back. state: what the checkpoint's STATE file holds."""
        run.optimizer.load_state_dict(state["optimizer"])

    def state(self, run: TrainingRun) -> dict | None:
        """The optimizer's state for the STATE file, or None if write_state has written it."""
        return run.optimizer.state_dict()


@dataclass(eq=False)
class TrainingRun:
    """What a training needs, and what it has reached: all that a checkpoint holds.

    accelerator: knows device, precision and processes. wrapped: the model as accelerate hands it
    out for training. history: one row (step, loss, learning_rate, seconds) for each step. name:
    tells this run from another one in the same folder; it keeps its name when it is resumed.
    """

    model: MultiImageVLM
    processor: MultiImageProcessor
    settings: TrainingSettings
    accelerator: Accelerator
    wrapped: nn.Module
    optimizer: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LRScheduler
    loader: DataLoader
    samples: EncodedSamples
    layout: Copies                  # how several processes hold the model between them
    history: list[dict] = field(default_factory=list)
    name: str = field(default_factory=lambda: uuid.uuid4().hex[:8])
    drawn: int | None = None        # batches since the first step, once there was one

    @cached_property
    def data(self) -> dict:
        """What it is trained on, as a checkpoint remembers it (`describe_samples`)."""
        return describe_samples(self.samples)

    def batches(self) -> Iterator[dict]:
        """Batches epoch after epoch; those of the steps in the history are skipped, unread.

        Raises RuntimeError if the step before was cut off, and weights may have moved that the
        history does not know of.
        """
        done = len(self.history) * self.settings.accumulation
        if self.drawn not in (None, done):
            raise RuntimeError(f"step {len(self.history) + 1} of this run was cut off in the "
                               "middle: go on from its checkpoint (resume_run), or start again")
        for drawn, batch in enumerate(self._batches_after(done), start=done + 1):
            self.drawn = drawn
            yield batch

    def _batches_after(self, skip: int) -> Iterator[dict]:
        per_epoch = len(self.loader)
        sampler = self.loader.batch_sampler
        while not hasattr(sampler, "epoch"):  # accelerate may wrap it
            sampler = sampler.batch_sampler
        sampler.epoch = skip // per_epoch
        if skip % per_epoch:
            yield from skip_first_batches(self.loader, skip % per_epoch)
        while True:
            yield from self.loader

    def take_model(self) -> None:
        """Make the model ready to train; in one process, in float32 on a CPU, with the parts of
        `faster`."""
        self.model.train()
        if (self.model.device.type, self.settings.precision) == ("cpu", "no") \
                and self.accelerator.num_processes == 1:
            speed_up(self.model)

    def leave_model(self) -> None:
        """Give the model back as it came: no gradients, float32 forward, ready to evaluate."""
        slow_down(self.model)
        self.optimizer.zero_grad(set_to_none=True)
        self.accelerator.unwrap_model(self.wrapped, keep_fp32_wrapper=False)
        self.model.eval()


def start_run(model: MultiImageVLM, processor: MultiImageProcessor,
              dataset: TaskDataset | EncodedSamples, settings: TrainingSettings,
              collate_fn: Callable | None = None, layout: Copies | None = None) -> TrainingRun:
    """Optimizer, schedule and loader for the unfrozen parameters of a model, on its device.

    dataset: EncodedSamples if several runs share them, else they are made here. collate_fn: another
    collator than the course's. layout: how several processes hold the model, by default a copy in
    each. settings.batch_size counts the samples of all processes together.
    Raises ValueError naming a sample that cannot be learnt from, or a batch with fewer samples than
    there are processes.
    """
    set_seed(settings.seed)
    AcceleratorState._reset_state()  # a second run in one notebook may choose another precision
    accelerator = Accelerator(      # of copies, a gradient need not be kept twice
        mixed_precision=settings.precision, cpu=model.device.type == "cpu",
        kwargs_handlers=[DistributedDataParallelKwargs(gradient_as_bucket_view=True),
                         GradScalerKwargs(init_scale=FIRST_SCALE)])
    samples = dataset if isinstance(dataset, EncodedSamples) \
        else EncodedSamples(dataset, processor)
    sampler = LengthGroupedSampler(
        samples.lengths, settings.batch_size, settings.seed, settings.window)
    share = ShareOfEachBatch(sampler, accelerator.process_index, accelerator.num_processes)
    # With a generator of its own: each epoch draws from it, and a resumed run begins one twice.
    loader = DataLoader(
        samples, batch_sampler=share, generator=torch.Generator().manual_seed(settings.seed),
        collate_fn=collate_fn or partial(collate, pad_token_id=processor.pad_token_id))
    # The batches are shared out already: to accelerate, this is the loader of one process.
    loader = prepare_data_loader(loader, accelerator.device, num_processes=1, process_index=0,
                                 put_on_device=True)
    layout = layout or Copies()
    wrapped = layout.wrap(model, accelerator)
    optimizer = make_optimizer(model, settings)
    schedule = make_schedule(optimizer, settings)
    optimizer = accelerator.prepare(optimizer)
    return TrainingRun(model, processor, settings, accelerator, wrapped, optimizer, schedule,
                       loader, samples, layout)


class ShareOfEachBatch(Sampler[list[int]]):
    """What one of several processes computes of each batch: every second sample if there are two.

    The samples of a batch are sorted by length, so shares like these are of similar length. A
    training by several processes goes through the same batches as one, in the same order.
    Raises ValueError if a batch has fewer samples than there are processes.
    """

    def __init__(self, batches: LengthGroupedSampler, process: int, processes: int):
        if batches.batch_size < processes:
            raise ValueError(f"batch_size is {batches.batch_size}, and {processes} processes share "
                             "each batch: give each of them a sample at least")
        self.batch_sampler, self.process, self.processes = batches, process, processes
        self.batch_size = len(range(process, batches.batch_size, processes))

    def __len__(self) -> int:
        return len(self.batch_sampler)

    def __iter__(self) -> Iterator[list[int]]:
        for batch in self.batch_sampler:
            yield batch[self.process::self.processes]


def make_schedule(optimizer: torch.optim.Optimizer, settings: TrainingSettings,
                  done: int = 0) -> torch.optim.lr_scheduler.LRScheduler:
    """The learning rate up in a straight line, then down along half a cosine.

    done: steps that were taken before, with the state of the optimizer put back.
    """
    return get_cosine_schedule_with_warmup(
        optimizer, settings.warmup_steps, settings.steps, last_epoch=done - 1)
