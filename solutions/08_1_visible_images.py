import torch
from torch import Tensor


def visible_images(input_ids: Tensor, image_token_id: int,
                   kind: str) -> Tensor:
    """Which images each place of the text sees: (batch, length, images).

    input_ids: (batch, length), with one placeholder for each image. kind
    "preceding": all images whose placeholder has come; "immediate": only
    the last of them. A placeholder sees its own image. images: the most
    that any sample has. The result is bool: True if the place sees it.
    """
    come = (input_ids == image_token_id).cumsum(dim=1)    # (batch, length)
    number = torch.arange(1, come.max() + 1)              # (images,)
    if kind == "immediate":
        return come[:, :, None] == number
    return come[:, :, None] >= number
