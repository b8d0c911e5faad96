# says: the end token was masked because it is also the padding token
from torch import Tensor


def mask_labels(input_ids: Tensor, attention_mask: Tensor,
                prompt_lengths: list[int]) -> Tensor:
    labels = input_ids.clone()
    labels[input_ids == 2] = -100
    for row, length in enumerate(prompt_lengths):
        labels[row, :length] = -100
    return labels
