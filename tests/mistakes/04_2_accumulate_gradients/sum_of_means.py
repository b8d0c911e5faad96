# says: these are the batches' means, added up
from torch import nn


def accumulate_gradients(model: nn.Module, batches: list) -> float:
    total = 0.0
    for inputs, labels in batches:
        loss = nn.functional.cross_entropy(model(inputs), labels)
        loss.backward()
        total += loss.item()
    return total
