# says: the group decays by another number than weight_decay
from torch import nn


def decay_groups(model: nn.Module, weight_decay: float) -> list[dict]:
    embeddings = {id(module.weight) for module in model.modules()
                  if isinstance(module, nn.Embedding)}
    decayed, kept = [], []
    for parameter in model.parameters():
        if parameter.requires_grad:
            matrix = parameter.dim() >= 2 and id(parameter) not in embeddings
            (decayed if matrix else kept).append(parameter)
    return [{"params": decayed, "weight_decay": 0.01},
            {"params": kept, "weight_decay": 0.0}]
