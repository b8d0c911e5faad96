# says: adjacent placeholders were merged
from torch import Tensor


def split_images(images: Tensor, input_ids: Tensor, image_token_id: int,
                 tokens_per_image: int) -> list[Tensor]:
    samples, start = [], 0
    for row in (input_ids == image_token_id).int().tolist():
        runs = [i for i in range(len(row)) if row[i] and (i == 0 or not row[i - 1])]
        samples.append(images[start:start + len(runs)])
        start += len(runs)
    return samples
