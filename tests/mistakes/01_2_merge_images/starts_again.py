# says: the second sample starts again with image 1
from torch import Tensor


def merge_images(word_embeddings: Tensor, image_embeddings: Tensor,
                 input_ids: Tensor, image_token_id: int) -> Tensor:
    vectors = image_embeddings.flatten(0, 1)
    merged = word_embeddings.clone()
    for row, ids in zip(merged, input_ids, strict=True):
        places = ids == image_token_id
        row[places] = vectors[:places.sum()]
    return merged
