import torch
from torch import Tensor


def mask_labels(input_ids: Tensor, attention_mask: Tensor,
                prompt_lengths: list[int]) -> Tensor:
    """Labels of a batch: the answers with their end, -100 elsewhere.

    input_ids, attention_mask: (batch, length), padded on the right. The
    padding token is the end token, 2. Row i starts with prompt_lengths[i]
    tokens of prompt. The model shifts the labels itself.
    """
    position = torch.arange(input_ids.shape[1])              # (length,)
    starts = torch.tensor(prompt_lengths)[:, None]           # (batch, 1)
    learnt = (position >= starts) & (attention_mask == 1)
    return input_ids.masked_fill(~learnt, -100)
