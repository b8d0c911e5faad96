# says: every sample got the same number of images
from torch import Tensor


def split_images(images: Tensor, input_ids: Tensor, image_token_id: int,
                 tokens_per_image: int) -> list[Tensor]:
    return list(images.chunk(len(input_ids)))
