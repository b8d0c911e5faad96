# says: return a list of dicts, each with params and weight_decay
from torch import nn


def decay_groups(model: nn.Module, weight_decay: float) -> list[dict]:
    embeddings = {id(module.weight) for module in model.modules()
                  if isinstance(module, nn.Embedding)}
    trained = [p for p in model.parameters() if p.requires_grad]
    decayed = [p for p in trained if p.dim() >= 2 and id(p) not in embeddings]
    kept = [p for p in trained if p.dim() < 2 or id(p) in embeddings]
    return decayed, kept
