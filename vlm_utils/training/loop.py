"""The training loop: one for every device, precision and number of processes (accelerate)."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from tqdm import tqdm

from vlm_utils.architecture import IGNORED
from vlm_utils.plots import progress
from vlm_utils.training.checkpoints import (
    how_to_go_on,
    is_due,
    reserve_folder,
    save_checkpoint,
)
from vlm_utils.training.faster import clip_gradients
from vlm_utils.training.run import TrainingRun


def training_step(accelerator: Accelerator, model: nn.Module, optimizer,
                  batches: Sequence[dict[str, Tensor]], average: str = "samples",
                  max_grad_norm: float = 1.0) -> float:
    """One optimizer step with the gradients of several batches, as of one large batch.

    average, max_grad_norm: see TrainingSettings. Returns the loss before the step. Raises
    FloatingPointError, and leaves the weights as they are, if that is not a finite number.
    """
    weights = [answer_weights(batch["labels"], average) for batch in batches]   # (batch, length)
    count = accelerator.reduce(sum(each.sum() for each in weights), "mean")
    total = 0.0
    for i, (batch, weight) in enumerate(zip(batches, weights, strict=True)):
        last = i + 1 == len(batches)    # only then do several processes exchange gradients
        with nullcontext() if last else accelerator.no_sync(model), accelerator.autocast():
            loss = model(**batch, loss_weights=weight, num_items_in_batch=count,
                         use_cache=False).loss
            accelerator.backward(loss)
        total += loss.detach()
    total = float(accelerator.reduce(total, "mean"))
    if not np.isfinite(total):
        raise FloatingPointError(f"the loss is {total}: lower the learning rate, or look for a "
                                 "sample without an answer")
    clip_gradients(accelerator, model, max_grad_norm)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return total


def train(run: TrainingRun, folder: str | Path | None = None,
          on_step: Callable[[dict], None] | None = None) -> pd.DataFrame:
    """Train to the last step; returns step, loss, learning rate and seconds, one row per step.

    folder: where checkpoints go; it is replaced only after the last step. on_step: called after
    each step with its row. The stop button ends the training after the step that is running, and
    its checkpoint is kept beside folder.
    """
    settings, batches = run.settings, run.batches()
    started = time.perf_counter() - (run.history[-1]["seconds"] if run.history else 0)
    run.take_model()
    try:
        with reserve_folder(folder, run) as folder, StopButton() as stop, \
                show_progress(run) as line:
            for step in range(len(run.history) + 1, settings.steps + 1):
                parts = [next(batches) for _ in range(settings.accumulation)]
                loss = training_step(run.accelerator, run.wrapped, run.optimizer, parts,
                                     settings.average, settings.max_grad_norm)
                run.schedule.step()
                run.history.append({
                    "step": step, "loss": loss, "learning_rate": run.schedule.get_last_lr()[0],
                    "seconds": time.perf_counter() - started})
                line.update()
                if on_step is not None:
                    stop.while_calling(on_step, run.history[-1])
                stopped = stop.pressed_in_any(run.accelerator)
                if folder and (stopped or is_due(run)):
                    save_checkpoint(folder, run)
                if stopped and step < settings.steps:
                    run.accelerator.print(how_to_go_on(folder, run))
                    break
    finally:
        run.leave_model()
    return pd.DataFrame(run.history, columns=["step", "loss", "learning_rate", "seconds"])


def answer_weights(labels: Tensor, average: str) -> Tensor:
    """What each label (batch, length) counts: as much as any other, or its share of its sample.

    Without shares, a selection, answered by one identifier and an end token, weighs half as much as
    a comparison of four tokens.
    Raises ValueError where average is neither "tokens" nor "samples".
    """
    learnt = (labels != IGNORED).float()
    if average == "tokens":
        return learnt
    if average == "samples":
        return learnt / learnt.sum(dim=1, keepdim=True).clamp(min=1)
    raise ValueError(f'average is "tokens" or "samples", not {average!r}')


def print_progress(every: int) -> Callable[[dict], None]:
    """An on_step that prints step, mean loss and seconds once every so many steps."""
    losses: list[float] = []

    def report(row: dict) -> None:
        losses.append(row["loss"])
        if row["step"] % every == 0:
            print(f"step {row['step']:5d}  loss {np.mean(losses[-every:]):.4f}  "
                  f"{row['seconds']:.0f} s", flush=True)
    return report


class StopButton:
    """While a training runs, the stop button (an interrupt) asks it to end after its step.

    An interrupt in the middle of a step would leave weights that have moved and a history that
    does not know it. Pressed a second time, it interrupts at once. In a thread that is not the main
    one, interrupts do not arrive and nothing changes.
    """

    def __init__(self):
        self.pressed = False

    def __enter__(self) -> StopButton:
        self.in_main_thread = threading.current_thread() is threading.main_thread()
        if self.in_main_thread:
            self.before = signal.signal(signal.SIGINT, self._press)
        return self

    def __exit__(self, *error) -> None:
        if self.in_main_thread:
            signal.signal(signal.SIGINT, self.before)

    def _press(self, number, frame) -> None:
        if self.pressed:
            raise KeyboardInterrupt
        self.pressed = True

    def pressed_in_any(self, accelerator: Accelerator) -> bool:
        """Was it pressed in any of several processes? All of them stop after the same step."""
        if accelerator.num_processes == 1:
            return self.pressed
        pressed = torch.tensor(float(self.pressed), device=accelerator.device)
        return bool(accelerator.reduce(pressed, "sum"))

    def while_calling(self, function: Callable, *arguments) -> None:
        """Call a function between two steps; an interrupt that it raises stops the training too."""
        try:
            function(*arguments)
        except KeyboardInterrupt:
            self.pressed = True


def show_progress(run: TrainingRun) -> tqdm:
    """How many of all steps are done, shown by the first process alone."""
    return progress(run.settings.steps, "training", "steps", initial=len(run.history),
                    silent=not run.accelerator.is_main_process)
