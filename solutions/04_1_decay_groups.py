from torch import nn


def decay_groups(model: nn.Module, weight_decay: float) -> list[dict]:
    """Two groups for an optimizer: {"params": ..., "weight_decay": ...}.

    Matrices decay. Embeddings (even if a head is tied to them), norms and
    biases get weight_decay 0. Frozen parameters are in no group.
    """
    embeddings = {id(module.weight) for module in model.modules()
                  if isinstance(module, nn.Embedding)}
    decayed, kept = [], []
    for parameter in model.parameters():
        if not parameter.requires_grad:
            continue
        is_matrix = parameter.dim() >= 2
        decays = is_matrix and id(parameter) not in embeddings
        (decayed if decays else kept).append(parameter)
    return [{"params": decayed, "weight_decay": weight_decay},
            {"params": kept, "weight_decay": 0.0}]
