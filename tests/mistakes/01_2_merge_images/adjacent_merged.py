# says: adjacent placeholders were merged
from torch import Tensor


def merge_images(word_embeddings: Tensor, image_embeddings: Tensor,
                 input_ids: Tensor, image_token_id: int) -> Tensor:
    merged = word_embeddings.clone()
    image = 0
    for row, ids in zip(merged, input_ids, strict=True):
        position = 0
        while position < len(ids):
            if ids[position] == image_token_id:
                row[position:position + 2] = image_embeddings[image]
                image += 1
                while position < len(ids) and ids[position] == image_token_id:
                    position += 1
            else:
                position += 1
    return merged
