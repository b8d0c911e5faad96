from torch import Tensor


def split_images(images: Tensor, input_ids: Tensor, image_token_id: int,
                 tokens_per_image: int) -> list[Tensor]:
    """The images of each sample, taken from the flat stack of a batch.

    images: (num_images, ...), those of sample 1 first. input_ids: (batch,
    length), in which each image has tokens_per_image placeholders.
    """
    placeholders = (input_ids == image_token_id).sum(dim=1)     # (batch,)
    counts = placeholders // tokens_per_image
    return list(images.split(counts.tolist()))
