# says: the labels are shifted
import torch
from torch import Tensor


def mask_labels(input_ids: Tensor, attention_mask: Tensor,
                prompt_lengths: list[int]) -> Tensor:
    labels = input_ids.clone()
    labels[attention_mask == 0] = -100
    for row, length in enumerate(prompt_lengths):
        labels[row, :length] = -100
    end = torch.full((len(labels), 1), -100)
    return torch.cat([labels[:, 1:], end], dim=1)
