"""Against forgetting, besides old samples in every batch: what domain.py tries.

A teacher, the model as it was, says of each old sample how likely it held every token, which is
more than the one right answer (learning without forgetting, Li and Hoiem 2016). The way back:
weights between those before and those after (WiSE-FT, Wortsman et al. 2022). And smaller steps for
the language model, which knows most of what can be forgotten.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from vlm_utils.architecture import IGNORED, MultiImageProcessor, MultiImageVLM, MultiImageVLMOutput
from vlm_utils.collate import collate
from vlm_utils.datasets import EncodedSamples, TaskDataset
from vlm_utils.profiles import TrainingSettings
from vlm_utils.training import MuonAndAdamW, TrainingRun, parameter_groups, start_run
from vlm_utils.training.run import make_schedule


def weights_of(model: MultiImageVLM) -> dict[str, Tensor]:
    """Copies of what projector and language model are now, for `move_back`."""
    return {name: p.detach().clone() for name, p in model.named_parameters()
            if not name.startswith("vision_encoder.")}


@torch.no_grad()
def move_back(model: MultiImageVLM, before: dict[str, Tensor], share: float) -> MultiImageVLM:
    """Move a trained model's weights back, for a share of the way, to what they were (WiSE-FT).

    before: what `weights_of` gave before the training. share: 0 changes nothing, 1 takes the
    training back. Changes the model in place and returns it. Raises ValueError for another share,
    and for weights of another model.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"share={share}: give a share of the way back, from 0 to 1")
    now = {name: p for name, p in model.named_parameters() if name in before}
    wrong = [name for name in before
             if name not in now or now[name].shape != before[name].shape]
    if wrong:
        raise ValueError(f"{wrong[0]} is not in this model with this shape: take the weights of "
                         "the same model, after it has grown (grow_encoder)")
    for name, weights in now.items():
        weights.lerp_(before[name].to(weights), share)
    return model


class TaughtSamples(EncodedSamples):
    """Samples that say whether a teacher answers them: taught, one truth value for each."""

    def __init__(self, dataset: TaskDataset, processor: MultiImageProcessor,
                 taught: Sequence[bool]):
        super().__init__(dataset, processor)
        self.taught = list(taught)
        if len(self.taught) != len(self):
            raise ValueError(f"{len(self.taught)} truth values for {len(self)} samples: say of "
                             "each sample whether a teacher answers it")

    def __getitem__(self, i: int) -> dict:
        return super().__getitem__(i) | {"taught": self.taught[i]}


class Taught(nn.Module):
    """A student in training; of samples that are taught, it learns what a teacher would say.

    Their loss is the cross entropy with the teacher's distribution of each answer token, less its
    entropy: zero if both say the same. Both models see the same images as the same features.
    """

    def __init__(self, student: nn.Module, teacher: MultiImageVLM):
        super().__init__()
        self.student = student
        self.__dict__["teacher"] = teacher.requires_grad_(False)    # no part of what is trained

    def forward(self, taught: Tensor, labels: Tensor, loss_weights: Tensor,
                num_items_in_batch: Tensor, **batch) -> MultiImageVLMOutput:
        """taught: (batch,), true or false. The rest: see MultiImageVLM.forward."""
        taught = taught.to(labels.device)
        output = self.student(labels=labels, num_items_in_batch=num_items_in_batch,
                              loss_weights=loss_weights * ~taught[:, None], **batch)
        answered = labels[:, 1:] != IGNORED                             # (batch, length - 1)
        weights = (loss_weights * taught[:, None])[:, 1:][answered]     # (answer_tokens,)
        with torch.no_grad():
            wanted = self.teacher.train()(labels=labels, **batch).logits
        apart = nn.functional.kl_div(
            output.logits.float().log_softmax(-1), wanted.float().log_softmax(-1),
            reduction="none", log_target=True).sum(-1)                  # (answer_tokens,)
        output.loss = output.loss + (apart * weights).sum() / num_items_in_batch
        return output


def start_taught_run(model: MultiImageVLM, teacher: MultiImageVLM, samples: TaughtSamples,
                     settings: TrainingSettings) -> TrainingRun:
    """A run, as start_run makes it, in which a teacher answers the samples that are taught.

    teacher: a copy of the model before the training, with the same vision encoder. Of one process.
    """
    pad = samples.processor.pad_token_id
    run = start_run(model, samples.processor, samples, settings,
                    collate_fn=lambda encoded: collate(encoded, pad) | {
                        "taught": torch.tensor([each["taught"] for each in encoded])})
    run.wrapped = Taught(run.wrapped, teacher)
    return run


def slow_language_model(run: TrainingRun, share: float) -> TrainingRun:
    """A run that was only started, with a learning rate of the language model's own.

    share: of that of everything else. Raises ValueError for another optimizer than Muon's.
    """
    settings = run.settings
    if settings.optimizer != "muon":
        raise ValueError(f"optimizer={settings.optimizer!r}: only a run with Muon can be slowed")
    of_language = {id(p) for p in run.model.language_model.parameters()}
    groups = parameter_groups(run.model, settings.weight_decay)
    rest, own = ([group | {"params": [p for p in group["params"]
                                      if (id(p) in of_language) == language]} for group in groups]
                 for language in (False, True))
    own = [group | {"lr": share * settings.learning_rate} for group in own]
    optimizer = MuonAndAdamW(rest + own, settings.learning_rate)
    run.schedule = make_schedule(optimizer, settings)
    run.optimizer = run.accelerator.prepare(optimizer)
    return run
