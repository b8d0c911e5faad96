# says: masked tokens were counted
from torch import nn


def accumulate_gradients(model: nn.Module, batches: list) -> float:
    count = sum(len(labels) for _, labels in batches)
    total = 0.0
    for inputs, labels in batches:
        loss = nn.functional.cross_entropy(model(inputs), labels, reduction="sum") / count
        loss.backward()
        total += loss.item()
    return total
