# says: all tokens of an image got one mean vector
from torch import Tensor


def merge_images(word_embeddings: Tensor, image_embeddings: Tensor,
                 input_ids: Tensor, image_token_id: int) -> Tensor:
    places = input_ids == image_token_id
    means = image_embeddings.mean(dim=1)
    merged = word_embeddings.clone()
    merged[places] = means.repeat_interleave(image_embeddings.shape[1], dim=0)
    return merged
