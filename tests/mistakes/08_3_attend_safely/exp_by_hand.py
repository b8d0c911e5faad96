# says: exp(200) is more than a float32 can hold, and inf / inf is NaN
from torch import Tensor


def attend_safely(queries: Tensor, keys: Tensor, values: Tensor,
                  mask: Tensor) -> Tensor:
    """Attention to what each place sees, and zeros if it sees nothing.

    queries: (length, dim). keys, values: (image_states, dim). mask:
    (length, image_states), bool. Scores are divided by the square root of
    dim. Neither the result, (length, dim), nor a gradient may hold NaN.
    """
    scores = queries @ keys.T / queries.shape[-1] ** 0.5
    weights = scores.exp().masked_fill(~mask, 0.0)
    total = weights.sum(dim=-1, keepdim=True)
    return weights / total.clamp(min=1e-9) @ values
