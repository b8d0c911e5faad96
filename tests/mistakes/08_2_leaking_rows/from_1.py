# says: the places count from 1: as an index, the first place is 0
from collections.abc import Callable

from torch import Tensor


def leaking_rows(attend: Callable, states: Tensor, images: Tensor,
                 others: Tensor, mask: Tensor) -> list[int]:
    """Places that see no image, and whose result changes with the images.

    attend(states, images, mask) gives the new states, (length, dim).
    states: (length, dim). images, others: (image_states, dim), of two
    different photographs. mask: (length, image_states), bool, what each
    place sees. Places count from 0. Any change counts, however small.
    """
    before = attend(states, images, mask)
    after = attend(states, others, mask)
    changed = (before != after).any(dim=-1)                  # (length,)
    return (changed & ~mask.any(dim=-1)).nonzero().flatten().add(1).tolist()
