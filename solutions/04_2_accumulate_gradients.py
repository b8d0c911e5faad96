from torch import nn


def accumulate_gradients(model: nn.Module, batches: list) -> float:
    """Leave in the model the gradient of one large batch; return its loss.

    batches: pairs of inputs (tokens, dim) and labels (tokens,), -100 where
    nothing is learnt. model(inputs) gives logits (tokens, classes). The
    loss is the mean cross entropy over the answer tokens of all batches.
    """
    count = sum(int((labels != -100).sum()) for _, labels in batches)
    total = 0.0
    for inputs, labels in batches:
        loss = nn.functional.cross_entropy(
            model(inputs), labels, reduction="sum") / count
        loss.backward()
        total += loss.item()
    return total
