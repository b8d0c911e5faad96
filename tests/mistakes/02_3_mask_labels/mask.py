# says: that is what is learnt, as True and False
import torch
from torch import Tensor


def mask_labels(input_ids: Tensor, attention_mask: Tensor,
                prompt_lengths: list[int]) -> Tensor:
    position = torch.arange(input_ids.shape[1])
    starts = torch.tensor(prompt_lengths)[:, None]
    return (position >= starts) & (attention_mask == 1)
