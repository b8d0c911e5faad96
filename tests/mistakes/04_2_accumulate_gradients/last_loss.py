# says: the gradients are right, and the loss is not
from torch import nn


def accumulate_gradients(model: nn.Module, batches: list) -> float:
    count = sum(int((labels != -100).sum()) for _, labels in batches)
    for inputs, labels in batches:
        loss = nn.functional.cross_entropy(model(inputs), labels, reduction="sum") / count
        loss.backward()
    return loss.item()
