# says: the values are right, and this is a NumPy array: return a tensor
from torch import Tensor


def merge_images(word_embeddings: Tensor, image_embeddings: Tensor,
                 input_ids: Tensor, image_token_id: int) -> Tensor:
    words = word_embeddings.numpy().copy()
    places = input_ids.numpy() == image_token_id
    words[places] = image_embeddings.flatten(0, 1).numpy()
    return words
