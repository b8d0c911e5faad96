# says: no placeholder was replaced
from torch import Tensor


def merge_images(word_embeddings: Tensor, image_embeddings: Tensor,
                 input_ids: Tensor, image_token_id: int) -> Tensor:
    merged = word_embeddings.clone()
    vectors = image_embeddings.flatten(0, 1)
    places = input_ids == image_token_id
    if places.sum() != len(vectors):
        raise ValueError(f"{places.sum()} placeholders, {len(vectors)} tokens")
    merged.masked_scatter(places.unsqueeze(-1), vectors)
    return merged
