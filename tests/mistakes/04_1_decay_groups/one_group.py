# says: layer.weight is in no group
from torch import nn


def decay_groups(model: nn.Module, weight_decay: float) -> list[dict]:
    embeddings = {id(module.weight) for module in model.modules()
                  if isinstance(module, nn.Embedding)}
    trained = [p for p in model.parameters() if p.requires_grad]
    kept = [p for p in trained if p.dim() < 2 or id(p) in embeddings]
    return [{"params": kept, "weight_decay": 0.0}]
