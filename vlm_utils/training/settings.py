"""The numbers of a training run."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from vlm_utils.profiles import Profile


@dataclass(frozen=True)
class TrainingSettings:
    """steps: optimizer steps, each of batch_size x accumulation samples. precision: "no" (float32),
    "bf16" or "fp16". checkpoint_every: steps between checkpoints, 0 for none on the way. window:
    batches of samples that are sorted by length together (collate.LengthGroupedSampler): many save
    padding, few mix the tasks in every batch. average: over "samples" the loss of a short answer
    counts as much as that of a long one, over "tokens" each token counts the same. optimizer:
    "adamw"; "muon" for the matrices and AdamW for the rest; or "adafactor", which keeps row and
    column sums where AdamW keeps two numbers a weight, and whose learning rate is a share of each
    matrix's own size: about 1e-2."""

    steps: int
    batch_size: int = 64
    accumulation: int = 1
    learning_rate: float = 2e-3
    warmup_steps: int = 200
    weight_decay: float = 0.05
    max_grad_norm: float = 1.0
    precision: str = "no"
    checkpoint_every: int = 0
    window: int = 2
    average: str = "samples"
    optimizer: str = "adamw"
    seed: int = 0

    @classmethod
    def of(cls, profile: Profile, **changes) -> TrainingSettings:
        """The numbers of a profile, with changes."""
        names = ("steps", "batch_size", "accumulation", "learning_rate", "warmup_steps",
                 "weight_decay", "precision", "optimizer", "seed")
        settings = cls(**{name: getattr(profile, name) for name in names})
        if not torch.cuda.is_available():
            settings = replace(settings, precision="no")
        return replace(settings, **changes)
