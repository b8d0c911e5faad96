"""What a training step takes, computed before it is run: its parts, and the moment of the peak."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from vlm_utils.architecture import IGNORED

MEGABYTE = 1_000_000
# The optimizer's numbers for each trained weight. Adafactor's rows and columns hardly count.
MOMENTS = {"adamw": 2, "muon": 1, "adafactor": 0}


def predict_memory(model: nn.Module, batch: dict[str, Tensor], optimizer: str = "adamw",
                 checkpointed: bool = False, all_logits: bool = False) -> dict[str, float]:
    """MB of "weights", "gradients", "moments", "activations" and "logits", of the layer that is
    being "worked on", and their "peak".

    model: MultiImageVLM, with an adapter or without, as it will be trained. batch: as collated,
    its images encoded. checkpointed: of each layer only its input is kept, and one layer at a time
    is computed again. all_logits: for every position, not for the answers only.
    """
    weights = list(model.parameters())
    trained = [w for w in weights if w.requires_grad]
    text = model.config.text_config
    table = model.get_input_embeddings().weight                 # (vocabulary, width)
    tokens = batch["input_ids"].numel()
    answers = tokens if all_logits else int((batch["labels"] != IGNORED).sum())

    number = table.element_size()
    layer = tokens * bytes_of_layer(text.hidden_size, text.intermediate_size, number)
    layer += tokens * copies_for_adapters(model, number) // text.num_hidden_layers
    kept = tokens * text.hidden_size * number if checkpointed else layer
    parts = {
        "weights": sum(w.nbytes for w in weights),
        "gradients": sum(w.nbytes for w in trained),
        "moments": MOMENTS[optimizer] * sum(w.nbytes for w in trained if w.ndim >= 2),
        "activations": text.num_hidden_layers * kept,
        "logits": 3 * answers * table.shape[0] * 4,     # they, their softmax, their gradient
        # The gradients of what a layer keeps, and, if that was not kept, the layer once more.
        "worked on": 2 * layer if checkpointed else layer}
    parts["peak"] = peak(parts, embeddings=table.nbytes if table.requires_grad else 0)
    return {name: value / MEGABYTE for name, value in parts.items()}


def bytes_of_layer(width: int, inner: int, number: int) -> int:
    """Bytes that one layer of a Llama keeps of one token until its backward pass.

    number: bytes of a number. Two norms keep their input, and it normalised and weighted; attention
    keeps queries, keys, values and its result; the feed-forward part keeps four of the inner width.
    """
    return (8 * width + 4 * inner) * number + 2 * width * 4     # norms compute in float32


def copies_for_adapters(model: nn.Module, number: int) -> int:
    """Bytes per token of inputs that adapters in float32 copy from layers in half precision."""
    if number == 4:
        return 0
    return sum(4 * weight.shape[1] for name, weight in model.named_parameters()
               if "lora_A" in name)


def peak(parts: dict[str, float], embeddings: float = 0) -> float:
    """The most at one moment: weights and moments stay, and one of two things stands beside them.

    As backward begins there are all activations; as it ends, all gradients. The table of embeddings
    is read at both ends of the model. embeddings: bytes of its gradient, which is made twice, and a
    third time for the sum, if it is trained.
    """
    begin = parts["activations"] + parts["logits"] + parts.get("worked on", 0) + embeddings
    end = parts["gradients"] + 2 * embeddings
    return parts["weights"] + parts["moments"] + max(begin, end)


def measure_kept(step: Callable[[], Tensor], model: nn.Module) -> float:
    """MB that a forward pass keeps for backward, weights left out, each storage counted once.

    step: computes the loss. torch says what it keeps (`saved_tensors_hooks`): to the byte, and the
    same on each machine.
    """
    own = {w.untyped_storage().data_ptr() for w in model.parameters()}
    kept: dict[int, Tensor] = {}        # the tensors too: a freed address would be used again

    def pack(tensor: Tensor) -> Tensor:
        address = tensor.untyped_storage().data_ptr()
        if address not in own:
            kept[address] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = step()                   # with its graph, alive until it has been counted
    found = sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
    del loss
    return found / MEGABYTE
