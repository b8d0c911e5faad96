"""The training loop: one for every device, precision and number of processes (accelerate).

The vision encoder is frozen, so the loop reads encoded images (`features.py`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from accelerate import Accelerator, skip_first_batches
from accelerate.state import AcceleratorState
from accelerate.utils import set_seed
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import get_cosine_schedule_with_warmup

from vlm_utils.architecture import MultiImageProcessor, MultiImageVLM
from vlm_utils.collate import LengthGroupedSampler, pad_texts
from vlm_utils.datasets import TaskDataset, encode_samples
from vlm_utils.profiles import get_device
from vlm_utils.training.checkpoints import load_training_state, save_checkpoint
from vlm_utils.training.optimizers import make_optimizer
from vlm_utils.training.settings import TrainingSettings


class EncodedSamples(torch.utils.data.Dataset):
    """The samples of a TaskDataset, tokenised once: no step does it again."""

    def __init__(self, dataset: TaskDataset, processor: MultiImageProcessor):
        if dataset.features is None:
            raise ValueError("the images are not encoded: set dataset.features = "
                             "encode_table(dataset.table, model, processor)")
        unknown = [i for i, r in enumerate(dataset.recipes) if r.answer is None]
        if unknown:
            raise ValueError(f"sample {unknown[0]} has no answer to learn from "
                             f"({len(unknown)} of {len(dataset)}): add captions to the images")
        self.recipes, self.features = dataset.recipes, dataset.features
        self.pad_token_id = processor.pad_token_id
        self.image_token_id = processor.image_token_id
        self.texts = encode_samples(dataset.recipes, processor)
        self.lengths = [len(text["input_ids"]) for text in self.texts]

    def __len__(self) -> int:
        return len(self.recipes)

    def __getitem__(self, i: int) -> int:
        return i

    def collate(self, chosen: list[int]) -> dict[str, Tensor]:
        """A training batch: padded texts and the flat stack of encoded images."""
        batch = pad_texts([self.texts[i] for i in chosen], self.pad_token_id, left=False)
        rows = [row for i in chosen for row in self.recipes[i].rows]
        batch[self.features.key] = self.features[rows]
        return batch

    def loader(self, batch_size: int, seed: int, window: int) -> DataLoader:
        if len(self) < batch_size:
            raise ValueError(f"{len(self)} samples do not fill one batch of {batch_size}: "
                             "choose a smaller batch_size")
        sampler = LengthGroupedSampler(self.lengths, batch_size, seed, window)
        return DataLoader(self, batch_sampler=sampler, collate_fn=self.collate)


def train(model: MultiImageVLM, dataset: TaskDataset | EncodedSamples,
          processor: MultiImageProcessor, settings: TrainingSettings,
          folder: str | Path | None = None, resume: bool = False,
          on_step: Callable[[dict], None] | None = None) -> pd.DataFrame:
    """Train the model's unfrozen parameters; returns step, loss, learning rate and seconds.

    dataset: EncodedSamples where several runs share them, else they are made here. folder: where
    checkpoints go. resume: go on from the checkpoint there, with the same batches
    in the same order as if there had been no interruption. on_step: called after each step with
    its row. An interrupt (the stop button) saves a checkpoint, where there is a folder, and
    returns what was reached. Raises FloatingPointError where the loss is no number.
    """
    from tqdm.auto import tqdm
    set_seed(settings.seed)
    AcceleratorState._reset_state()  # a second run in one notebook may choose another precision
    accelerator = Accelerator(mixed_precision=settings.precision, cpu=get_device().type == "cpu")
    samples = dataset if isinstance(dataset, EncodedSamples) \
        else EncodedSamples(dataset, processor)
    optimizer = make_optimizer(model, settings)
    schedule = get_cosine_schedule_with_warmup(optimizer, settings.warmup_steps, settings.steps)
    loader = samples.loader(settings.batch_size, settings.seed, settings.window)
    wrapped, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    history: list[dict] = []
    if resume:
        history = load_training_state(folder, optimizer, schedule, settings)
    batches = _endless(loader, skip=len(history) * settings.accumulation)
    model.train()
    started = time.perf_counter() - (history[-1]["seconds"] if history else 0)
    # Said only where it is to be silent: a False would overrule TQDM_DISABLE.
    silent = {} if accelerator.is_main_process else {"disable": True}
    bar = tqdm(total=settings.steps, initial=len(history), leave=False, unit="step", mininterval=1,
               **silent)
    try:
        for step in range(len(history) + 1, settings.steps + 1):
            window = [next(batches) for _ in range(settings.accumulation)]
            loss = _accumulate(accelerator, wrapped, window, settings.average)
            if not np.isfinite(loss):
                raise FloatingPointError(f"the loss is {loss} at step {step}: lower the learning "
                                         "rate, or look for a sample without an answer")
            accelerator.clip_grad_norm_(model.parameters(), settings.max_grad_norm)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad(set_to_none=True)
            history.append({"step": step, "loss": loss, "learning_rate": schedule.get_last_lr()[0],
                            "seconds": time.perf_counter() - started})
            bar.update()
            if on_step is not None:
                on_step(history[-1])
            if folder and settings.checkpoint_every and step % settings.checkpoint_every == 0:
                save_checkpoint(folder, model, processor, optimizer, schedule, history, settings)
    except KeyboardInterrupt:
        print(f"interrupted after step {len(history)} of {settings.steps}")
    finally:
        bar.close()
    if folder and accelerator.is_main_process:
        save_checkpoint(folder, model, processor, optimizer, schedule, history, settings)
    optimizer.zero_grad(set_to_none=True)
    model.eval()
    return pd.DataFrame(history)


def print_progress(every: int) -> Callable[[dict], None]:
    """An on_step that prints step, mean loss and seconds once in so many steps."""
    losses: list[float] = []

    def report(row: dict) -> None:
        losses.append(row["loss"])
        if row["step"] % every == 0:
            print(f"step {row['step']:5d}  loss {np.mean(losses[-every:]):.4f}  "
                  f"{row['seconds']:.0f} s", flush=True)
    return report


def answer_weights(labels: Tensor, average: str) -> Tensor:
    """What each label (batch, length) counts: as much as any other, or its share of its sample.

    Without shares, a selection, answered by one identifier, weighs a quarter of a comparison.
    Raises ValueError where average is neither "tokens" nor "samples".
    """
    learnt = (labels != -100).float()
    if average == "tokens":
        return learnt
    if average == "samples":
        return learnt / learnt.sum(dim=1, keepdim=True).clamp(min=1)
    raise ValueError(f'average is "tokens" or "samples", not {average!r}')


def _accumulate(accelerator: Accelerator, model: nn.Module, window: list[dict],
                average: str) -> float:
    """Gradients of several batches as of one. Returns the loss."""
    weights = [answer_weights(batch["labels"], average) for batch in window]
    count = sum(w.sum() for w in weights)
    count = accelerator.reduce(count, "sum") / accelerator.num_processes
    total = 0.0
    for i, batch in enumerate(window):
        last = i == len(window) - 1
        with nullcontext() if last else accelerator.no_sync(model), accelerator.autocast():
            loss = model(**batch, loss_weights=weights[i], num_items_in_batch=count,
                         use_cache=False).loss
            accelerator.backward(loss)
        total += loss.detach()
    return float(accelerator.reduce(total, "mean"))


def _endless(loader: DataLoader, skip: int) -> Iterator[dict]:
    """Batches epoch after epoch, the first `skip` of them left out without reading them."""
    per_epoch = len(loader)
    sampler = loader.batch_sampler
    while not hasattr(sampler, "epoch"):  # accelerate may wrap it
        sampler = sampler.batch_sampler
    sampler.epoch = skip // per_epoch
    if skip % per_epoch:
        yield from skip_first_batches(loader, skip % per_epoch)
    while True:
        yield from loader
