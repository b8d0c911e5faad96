"""How several processes hold one model between them: a whole copy in each (DDP)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from torch import Tensor, nn

if TYPE_CHECKING:
    from vlm_utils.training.run import TrainingRun


class OtherProcessFailed(RuntimeError):
    """Another process of the same training could not go on; the message is what it said."""


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


def in_first_process(accelerator: Accelerator, action: Callable):
    """Call an action in process 0 alone and return there what it returns, once all know how it
    went.

    Raises what it raised; in the other processes OtherProcessFailed. Without this, one process
    would end with an error and the others would wait for it.
    """
    result, error = None, None
    if accelerator.is_main_process:
        try:
            result = action()
        except Exception as raised:
            error = raised
    if accelerator.num_processes > 1:
        (said,) = broadcast_object_list([error and f"{type(error).__name__}: {error}"])
        if said and error is None:
            raise OtherProcessFailed(said)
    if error is not None:
        raise error
    return result
