# says: the prompt is learnt
from torch import Tensor


def mask_labels(input_ids: Tensor, attention_mask: Tensor,
                prompt_lengths: list[int]) -> Tensor:
    labels = input_ids.clone()
    labels[attention_mask == 0] = -100
    return labels
