import torch
from torch import Tensor


def merge_images(word_embeddings: Tensor, image_embeddings: Tensor,
                 input_ids: Tensor, image_token_id: int) -> Tensor:
    """Image vectors in place of the placeholders, all else as it was.

    word_embeddings: (batch, length, dim). input_ids: (batch, length).
    image_embeddings: (num_images, tokens, dim), those of sample 1 first.
    Raises ValueError, with both numbers, if there are more or fewer
    placeholder tokens than image tokens.
    """
    places = input_ids == image_token_id               # (batch, length)
    vectors = image_embeddings.flatten(0, 1)    # (images * tokens, dim)
    if places.sum() != len(vectors):
        raise ValueError(f"{int(places.sum())} placeholder tokens and "
                         f"{len(vectors)} image tokens")
    merged = torch.clone(word_embeddings)
    merged[places] = vectors
    return merged
