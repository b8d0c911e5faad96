# says: the last sample is missing
from torch import Tensor


def split_images(images: Tensor, input_ids: Tensor, image_token_id: int,
                 tokens_per_image: int) -> list[Tensor]:
    counts = (input_ids == image_token_id).sum(dim=1) // tokens_per_image
    samples, start = [], 0
    for count in counts.tolist()[:-1]:
        samples.append(images[start:start + count])
        start += count
    return samples
