# says: only the last batch counts: the gradients of the first were set to zero, and each
from torch import nn


def accumulate_gradients(model: nn.Module, batches: list) -> float:
    total = 0.0
    for inputs, labels in batches:
        model.zero_grad()
        loss = nn.functional.cross_entropy(model(inputs), labels)
        loss.backward()
        total += loss.item()
    return total / len(batches)
