# says: divide by tokens_per_image
from torch import Tensor


def split_images(images: Tensor, input_ids: Tensor, image_token_id: int,
                 tokens_per_image: int) -> list[Tensor]:
    counts = (input_ids == image_token_id).sum(dim=1)
    return list(images.split(counts.tolist()))
