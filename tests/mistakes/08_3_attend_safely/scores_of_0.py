# says: a hidden score of 0 is not hidden: exp(0) is 1
import torch
from torch import Tensor


def attend_safely(queries: Tensor, keys: Tensor, values: Tensor,
                  mask: Tensor) -> Tensor:
    """Attention to what each place sees, and zeros if it sees nothing.

    queries: (length, dim). keys, values: (image_states, dim). mask:
    (length, image_states), bool. Scores are divided by the square root of
    dim. Neither the result, (length, dim), nor a gradient may hold NaN.
    """
    scores = queries @ keys.T / queries.shape[-1] ** 0.5
    sees = mask.any(dim=-1, keepdim=True)                    # (length, 1)
    scores = scores.masked_fill(~mask, 0.0)
    return torch.where(sees, scores.softmax(dim=-1) @ values, 0.0)
