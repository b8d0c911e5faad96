# says: no gradient reaches image_embeddings
import torch
from torch import Tensor


def merge_images(word_embeddings: Tensor, image_embeddings: Tensor,
                 input_ids: Tensor, image_token_id: int) -> Tensor:
    places = input_ids == image_token_id
    vectors = image_embeddings.flatten(0, 1)
    if places.sum() != len(vectors):
        raise ValueError(f"{places.sum()} placeholders, {len(vectors)} tokens")
    merged = torch.zeros_like(word_embeddings)
    merged.data[places] = vectors
    merged.data[~places] = word_embeddings[~places]
    return merged
