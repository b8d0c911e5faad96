# says: all tokens of an image got its last vector
from torch import Tensor


def merge_images(word_embeddings: Tensor, image_embeddings: Tensor,
                 input_ids: Tensor, image_token_id: int) -> Tensor:
    places = (input_ids == image_token_id).nonzero()
    tokens = image_embeddings.shape[1]
    merged = word_embeddings.clone()
    for k, image in enumerate(image_embeddings):
        for vector in image:
            for row, position in places[k * tokens:(k + 1) * tokens]:
                merged[row, position] = vector
    return merged
