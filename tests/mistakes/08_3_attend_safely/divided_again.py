# says: a hidden state with a large score has taken all the weight
from torch import Tensor


def attend_safely(queries: Tensor, keys: Tensor, values: Tensor,
                  mask: Tensor) -> Tensor:
    """Attention to what each place sees, and zeros if it sees nothing.

    queries: (length, dim). keys, values: (image_states, dim). mask:
    (length, image_states), bool. Scores are divided by the square root of
    dim. Neither the result, (length, dim), nor a gradient may hold NaN.
    """
    scores = queries @ keys.T / queries.shape[-1] ** 0.5
    weights = scores.softmax(dim=-1) * mask
    total = weights.sum(dim=-1, keepdim=True)
    return weights / total.clamp(min=1e-9) @ values
