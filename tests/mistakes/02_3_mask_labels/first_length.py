# says: every row was masked as far as the first prompt reaches
from torch import Tensor


def mask_labels(input_ids: Tensor, attention_mask: Tensor,
                prompt_lengths: list[int]) -> Tensor:
    labels = input_ids.clone()
    labels[attention_mask == 0] = -100
    labels[:, :prompt_lengths[0]] = -100
    return labels
