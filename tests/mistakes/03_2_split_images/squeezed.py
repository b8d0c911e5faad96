# says: a sample with one image lost its first dimension
from torch import Tensor


def split_images(images: Tensor, input_ids: Tensor, image_token_id: int,
                 tokens_per_image: int) -> list[Tensor]:
    counts = (input_ids == image_token_id).sum(dim=1) // tokens_per_image
    samples, start = [], 0
    for count in counts.tolist():
        samples.append(images[start] if count == 1 else images[start:start + count])
        start += count
    return samples
