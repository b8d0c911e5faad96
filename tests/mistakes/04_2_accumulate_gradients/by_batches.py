# says: the sum was divided by the number of batches
from torch import nn


def accumulate_gradients(model: nn.Module, batches: list) -> float:
    total = 0.0
    for inputs, labels in batches:
        loss = nn.functional.cross_entropy(model(inputs), labels, reduction="sum")
        loss = loss / len(batches)
        loss.backward()
        total += loss.item()
    return total
