# says: the values are right, and they are floats
import torch
from torch import Tensor


def mask_labels(input_ids: Tensor, attention_mask: Tensor,
                prompt_lengths: list[int]) -> Tensor:
    labels = torch.ones(input_ids.shape) * -100
    for row, length in enumerate(prompt_lengths):
        end = attention_mask[row].sum()
        labels[row, length:end] = input_ids[row, length:end].float()
    return labels
