# says: words.weight stands twice
from torch import nn


def decay_groups(model: nn.Module, weight_decay: float) -> list[dict]:
    decayed, kept = [], []
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if not parameter.requires_grad:
            continue
        if parameter.dim() < 2 or "words" in name:
            kept.append(parameter)
        else:
            decayed.append(parameter)
    return [{"params": decayed, "weight_decay": weight_decay},
            {"params": kept, "weight_decay": 0.0}]
