"""What decays and what does not; AdamW, Muon, Adafactor."""

from __future__ import annotations

import torch
from torch import nn

from vlm_utils.profiles import TrainingSettings

# AdamW's running means of the gradient and of its square. 0.98 looks back over about 50 steps;
# torch's own 0.999 looks back over 1,000, a third of a whole run of the tiny profile.
BETAS = (0.9, 0.98)


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict]:
    """Trainable parameters in two groups: matrices decay; embeddings, norms and biases do not.

    Token rows that a batch does not use get no gradient; decay would shrink them all the same.
    """
    embeddings = {id(p) for m in model.modules() if isinstance(m, nn.Embedding)
                  for p in m.parameters()}
    trained = [p for p in model.parameters() if p.requires_grad]
    decayed = [p for p in trained if p.ndim >= 2 and id(p) not in embeddings]
    kept = [p for p in trained if p.ndim < 2 or id(p) in embeddings]
    return [{"params": decayed, "weight_decay": weight_decay},
            {"params": kept, "weight_decay": 0.0}]


class MuonAndAdamW(torch.optim.Optimizer):
    """Muon (Jordan et al. 2024) for the matrices that decay, AdamW for everything else.

    One object with one state, so that schedule, accelerate and checkpoints need not know. Muon's
    steps are scaled to the size of AdamW's, so both take the same learning rate.
    """

    def __init__(self, groups: list[dict], lr: float):
        matrices, others = [], []
        for decayed, kept in zip(groups[::2], groups[1::2], strict=True):
            two, other = ([p for p in decayed["params"] if (p.ndim == 2) == flat]
                          for flat in (True, False))
            matrices.append(decayed | {"params": two})
            others += [decayed | {"params": other}, kept]
        self.parts = [
            torch.optim.Muon(matrices, lr=lr, adjust_lr_fn="match_rms_adamw"),
            torch.optim.AdamW(others, lr=lr, betas=BETAS, fused=True)]
        super().__init__([group for part in self.parts for group in part.param_groups], {})

    @property
    def state(self) -> dict:
        """What both keep for their parameters; memory reports read it."""
        return {p: kept for part in self.parts for p, kept in part.state.items()}

    @state.setter
    def state(self, value) -> None:
        """Held by the parts: what the base class assigns when it is made is empty."""

    def step(self, closure=None):
        loss = None if closure is None else closure()
        for part in self.parts:
            part.step()
        return loss

    def state_dict(self) -> dict:
        return {"parts": [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state_dict: dict) -> None:
        for part, state in zip(self.parts, state_dict["parts"], strict=True):
            part.load_state_dict(state)  # puts new groups in the place of the old
        self.param_groups = [group for part in self.parts for group in part.param_groups]


def encoder_apart(groups: list[dict], model: nn.Module, learning_rate: float) -> list[dict]:
    """Pairs of groups, as parameter_groups gives one: all but the vision encoder, then its own.

    What was trained for long moves in smaller steps than what is new (Howard and Ruder 2018).
    Raises ValueError if the vision encoder is frozen.
    """
    of_encoder = {id(p) for p in model.vision_encoder.parameters() if p.requires_grad}
    if not of_encoder:
        raise ValueError("encoder_rate is given and the vision encoder is frozen: "
                         "unfreeze it first, as unfreeze_encoder (lesson 09) does")
    rest = [group | {"params": [p for p in group["params"] if id(p) not in of_encoder]}
            for group in groups]
    own = [group | {"params": [p for p in group["params"] if id(p) in of_encoder],
                    "lr": learning_rate} for group in groups]
    return rest + own


def make_optimizer(model: nn.Module, settings: TrainingSettings) -> torch.optim.Optimizer:
    """The settings' optimizer. Raises ValueError for one that the course does not have."""
    groups = parameter_groups(model, settings.weight_decay)
    if settings.encoder_rate != 1:
        groups = encoder_apart(groups, model, settings.encoder_rate * settings.learning_rate)
    if settings.optimizer == "muon":
        return MuonAndAdamW(groups, settings.learning_rate)
    if settings.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=settings.learning_rate, betas=BETAS, fused=True)
    if settings.optimizer == "adafactor":
        return torch.optim.Adafactor(groups, lr=settings.learning_rate)
    raise ValueError('the optimizer is "adamw", "muon" or "adafactor", '
                     f"not {settings.optimizer!r}")
