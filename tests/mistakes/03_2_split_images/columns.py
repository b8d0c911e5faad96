# says: count the placeholders of each row
from torch import Tensor


def split_images(images: Tensor, input_ids: Tensor, image_token_id: int,
                 tokens_per_image: int) -> list[Tensor]:
    counts = (input_ids == image_token_id).sum(dim=0) // tokens_per_image
    return list(images.split(counts.tolist()))
