# says: words.weight stands twice
from torch import nn


def decay_groups(model: nn.Module, weight_decay: float) -> list[dict]:
    decayed, kept = [], []
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            if not parameter.requires_grad:
                continue
            if isinstance(module, nn.Linear) and parameter.dim() >= 2:
                decayed.append(parameter)
            else:
                kept.append(parameter)
    return [{"params": decayed, "weight_decay": weight_decay},
            {"params": kept, "weight_decay": 0.0}]
