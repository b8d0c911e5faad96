# says: this is upside down
import torch
from torch import Tensor


def mask_labels(input_ids: Tensor, attention_mask: Tensor,
                prompt_lengths: list[int]) -> Tensor:
    position = torch.arange(input_ids.shape[1])
    starts = torch.tensor(prompt_lengths)[:, None]
    learnt = (position >= starts) & (attention_mask == 1)
    return input_ids.masked_fill(learnt, -100)
