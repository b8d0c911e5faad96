# says: the values are right, and this is a list: return a tensor
from torch import Tensor


def mask_labels(input_ids: Tensor, attention_mask: Tensor,
                prompt_lengths: list[int]) -> Tensor:
    labels = []
    for ids, mask, length in zip(
            input_ids.tolist(), attention_mask.tolist(), prompt_lengths, strict=True):
        labels.append([token if real and i >= length else -100
                       for i, (token, real) in enumerate(zip(ids, mask, strict=True))])
    return labels
