"""FSDP2: each process holds a share of every trained number, and gathers a layer when it is used.

Zhao et al. 2023, "PyTorch FSDP"; Rajbhandari et al. 2020, "ZeRO". `fully_shard` replaces each
parameter by its share (a DTensor); nothing else of the training changes.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.distributed.checkpoint as dcp
from accelerate import Accelerator
from torch import Tensor, nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from vlm_utils.architecture import MultiImageVLM
from vlm_utils.training import Copies, TrainingRun

STATE_FOLDER = "optimizer"          # in a checkpoint: a file from each process, and an index


class Shards(Copies):
    """Each process holds its share of weights, gradients and the optimizer's state (FSDP2).

    train(start_run(..., layout=Shards()), folder), and the same to resume. Checkpoints hold whole
    weights in safetensors, as ever, and the optimizer's state in one file from each process, which
    any number of processes can read. On one process nothing is cut.
    """

    name = "shards"

    def wrap(self, model: MultiImageVLM, accelerator: Accelerator) -> MultiImageVLM:
        model.to(accelerator.device)
        return shard(model, accelerator) if accelerator.num_processes > 1 else model

    def weights(self, run: TrainingRun) -> dict[str, Tensor] | None:
        return gather_weights(run.model, keep=run.accelerator.is_main_process)

    def state(self, run: TrainingRun) -> None:
        return None

    def write_state(self, folder: Path, run: TrainingRun) -> None:
        """Raises OSError saying what kept one of the processes from writing, in all of them."""
        try:
            with _alone_or_together(run) as alone:
                dcp.save(optimizer_state(run), checkpoint_id=folder / STATE_FOLDER, no_dist=alone)
        except CheckpointException as failed:       # not an Exception, so nothing would catch it
            rank, (error, _) = min(failed.failures.items())
            raise OSError(f"process {rank} could not write its share of the checkpoint: "
                          f"{error}") from None

    def read_state(self, folder: Path, run: TrainingRun, state: dict) -> None:
        read_optimizer(folder / STATE_FOLDER, run)


def shard(model: MultiImageVLM, accelerator: Accelerator) -> MultiImageVLM:
    """Cut a model's parameters in as many shares as there are processes, in place.

    Each layer is a unit of its own: whole for the moment in which it computes, then a share again.
    All the rest is the root's: the projector, and the embeddings, which are tied to the head and
    must not be cut twice. Cross-attention blocks are the root's too, for their keys are computed
    before their layers are, and in a batch without images they are not used. So the root comes
    first: it would not look into a layer that is a unit already, and leave its block uncut.
    """
    mesh = init_device_mesh(accelerator.device.type, (accelerator.num_processes,))
    layers = (*model.vision_encoder.layers, *model.language_model.model.layers)
    of_layers = {weight for layer in layers for weight in layer.parameters()}
    fully_shard(model, mesh=mesh, ignored_params=of_layers - weights_of_blocks(model))
    for layer in layers:
        fully_shard(layer, mesh=mesh, ignored_params=weights_of_blocks(model))
    return model


def weights_of_blocks(model: MultiImageVLM) -> set[nn.Parameter]:
    """Of the cross-attention blocks, which are parts of their layers; none in lesson 01's model."""
    return {weight for block in getattr(model.language_model, "blocks", [])
            for weight in block.parameters()}


def held_bytes(model: nn.Module, optimizer: torch.optim.Optimizer | None = None) -> dict[str, int]:
    """Bytes that this process holds: "frozen", "weights" (trained), "gradients", "optimizer"."""
    trained = [p for p in model.parameters() if p.requires_grad]
    gradients = [p.grad for p in trained if p.grad is not None]
    kept = [] if optimizer is None else [
        value for state in optimizer.state.values() for value in state.values()
        if isinstance(value, Tensor)]
    groups = {"frozen": [p for p in model.parameters() if not p.requires_grad],
              "weights": trained, "gradients": gradients, "optimizer": kept}
    return {name: sum(_here(tensor).nbytes for tensor in tensors)
            for name, tensors in groups.items()}


def gather_weights(model: nn.Module, keep: bool = True) -> dict[str, Tensor] | None:
    """A model's whole weights on the CPU, by their names. All processes call this together.

    keep: False where they are not wanted, for each process takes part and only one needs them.
    Tied weights are one tensor under two names, as in the model: a file then holds them once.
    """
    whole, known = {}, {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        if id(tensor) not in known:
            full = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
            known[id(tensor)] = full.detach().cpu() if keep else None
        whole[name] = known[id(tensor)]
    return whole if keep else None


# --- the optimizer's state -------------------------------------------------------------------

def optimizer_state(run: TrainingRun) -> dict[str, Tensor]:
    """What the optimizer keeps, by the names of the parameters: "projector….weight/exp_avg"."""
    return {f"{name}/{key}": value if isinstance(value, Tensor) else torch.tensor(value)
            for name, parameter, state in _states(run) for key, value in state.items()}


def read_optimizer(folder: Path, run: TrainingRun) -> None:
    """Give an optimizer the state that any number of processes have written, each its share.

    Raises KeyError naming what the files do not hold, or hold of another model.
    """
    reader = dcp.FileSystemReader(folder)
    stored = reader.read_metadata().state_dict_metadata
    parameters = {name: parameter for name, parameter, _ in _states(run)}
    wanted: dict[str, Tensor] = {}
    for key, found in stored.items():
        name = key.rpartition("/")[0]
        if name not in parameters:
            raise KeyError(f"{folder} holds the optimizer's state of {name}, which is not trained")
        parameter = parameters[name]
        if found.size == parameter.shape:                   # a moment: cut as its parameter is
            wanted[key] = torch.empty_like(parameter, requires_grad=False)
        else:                                               # a count of steps
            wanted[key] = torch.empty(found.size, dtype=found.properties.dtype)
    with _alone_or_together(run) as alone:
        dcp.load(wanted, storage_reader=reader, no_dist=alone)
    for name, _, state in _states(run):
        prefix = f"{name}/"
        state.update({key.removeprefix(prefix): value for key, value in wanted.items()
                      if key.startswith(prefix)})
        if not state:
            raise KeyError(f"{folder} holds no optimizer's state of {name}")
    for group in run.optimizer.param_groups:                # as a schedule that goes on expects
        group.setdefault("initial_lr", run.settings.learning_rate)


def _states(run: TrainingRun) -> Iterator[tuple[str, Tensor, dict]]:
    """Name, parameter and the state that the optimizer keeps for it, to be read or filled."""
    optimizer = run.optimizer.optimizer
    names = {id(parameter): name for name, parameter in run.model.named_parameters()}
    for part in getattr(optimizer, "parts", [optimizer]):   # Muon and AdamW are two
        for group in part.param_groups:
            for parameter in group["params"]:
                yield names[id(parameter)], parameter, part.state[parameter]


@contextmanager
def _alone_or_together(run: TrainingRun) -> Iterator[bool]:
    """Is this the only process? Then nothing is to be warned of: it reads and writes alone."""
    alone = run.accelerator.num_processes == 1
    with warnings.catch_warnings():
        if alone:
            warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        yield alone


def _here(tensor: Tensor) -> Tensor:
    """This process's share of a tensor: all of it, if it is not cut."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor
