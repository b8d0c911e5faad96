# says: norms or biases decay
from torch import nn


def decay_groups(model: nn.Module, weight_decay: float) -> list[dict]:
    embeddings = {id(module.weight) for module in model.modules()
                  if isinstance(module, nn.Embedding)}
    trained = [p for p in model.parameters() if p.requires_grad]
    return [{"params": [p for p in trained if id(p) not in embeddings],
             "weight_decay": weight_decay},
            {"params": [p for p in trained if id(p) in embeddings],
             "weight_decay": 0.0}]
