# says: the padding is learnt
from torch import Tensor


def mask_labels(input_ids: Tensor, attention_mask: Tensor,
                prompt_lengths: list[int]) -> Tensor:
    labels = input_ids.clone()
    for row, length in enumerate(prompt_lengths):
        labels[row, :length] = -100
    return labels
