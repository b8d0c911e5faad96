# says: shares the weight equally, and so the images leak into it
from torch import Tensor


def attend_safely(queries: Tensor, keys: Tensor, values: Tensor,
                  mask: Tensor) -> Tensor:
    """Attention to what each place sees, and zeros if it sees nothing.

    queries: (length, dim). keys, values: (image_states, dim). mask:
    (length, image_states), bool. Scores are divided by the square root of
    dim. Neither the result, (length, dim), nor a gradient may hold NaN.
    """
    scores = queries @ keys.T / queries.shape[-1] ** 0.5
    scores = scores.masked_fill(~mask, -1e9)
    return scores.softmax(dim=-1) @ values
