# says: this is the mean of the batches' means
from torch import nn


def accumulate_gradients(model: nn.Module, batches: list) -> float:
    total = 0.0
    for inputs, labels in batches:
        loss = nn.functional.cross_entropy(model(inputs), labels) / len(batches)
        loss.backward()
        total += loss.item()
    return total
