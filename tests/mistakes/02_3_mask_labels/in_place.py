# says: your function changes its input input_ids
from torch import Tensor


def mask_labels(input_ids: Tensor, attention_mask: Tensor,
                prompt_lengths: list[int]) -> Tensor:
    labels = input_ids
    labels[attention_mask == 0] = -100
    for row, length in enumerate(prompt_lengths):
        labels[row, :length] = -100
    return labels
