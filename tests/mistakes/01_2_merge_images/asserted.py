# says: asserts vanish when Python runs with -O (python -O): raise a ValueError instead
from torch import Tensor


def merge_images(word_embeddings: Tensor, image_embeddings: Tensor,
                 input_ids: Tensor, image_token_id: int) -> Tensor:
    places = input_ids == image_token_id
    vectors = image_embeddings.flatten(0, 1)
    assert places.sum() == len(vectors), f"{places.sum()}, {len(vectors)}"
    merged = word_embeddings.clone()
    merged[places] = vectors
    return merged
