# says: only the last batch counts: the gradients of the first were set to zero on the way
from torch import nn


def accumulate_gradients(model: nn.Module, batches: list) -> float:
    count = sum(int((labels != -100).sum()) for _, labels in batches)
    total = 0.0
    for inputs, labels in batches:
        model.zero_grad()
        loss = nn.functional.cross_entropy(model(inputs), labels, reduction="sum") / count
        loss.backward()
        total += loss.item()
    return total
