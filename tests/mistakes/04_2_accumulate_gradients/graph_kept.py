# says: the loss still remembers its graph
from torch import nn


def accumulate_gradients(model: nn.Module, batches: list) -> float:
    count = sum(int((labels != -100).sum()) for _, labels in batches)
    total = 0.0
    for inputs, labels in batches:
        loss = nn.functional.cross_entropy(model(inputs), labels, reduction="sum") / count
        loss.backward()
        total += loss
    return total
