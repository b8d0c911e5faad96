# says: the first token of the answer is masked
import torch
from torch import Tensor


def mask_labels(input_ids: Tensor, attention_mask: Tensor,
                prompt_lengths: list[int]) -> Tensor:
    position = torch.arange(input_ids.shape[1])
    prompt = position <= torch.tensor(prompt_lengths)[:, None]
    return input_ids.masked_fill(prompt | (attention_mask == 0), -100)
