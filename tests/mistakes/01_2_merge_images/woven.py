# says: the images are woven into each other
from torch import Tensor


def merge_images(word_embeddings: Tensor, image_embeddings: Tensor,
                 input_ids: Tensor, image_token_id: int) -> Tensor:
    places = input_ids == image_token_id
    merged = word_embeddings.clone()
    merged[places] = image_embeddings.transpose(0, 1).flatten(0, 1)
    return merged
