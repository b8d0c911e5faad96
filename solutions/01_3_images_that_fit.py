def images_that_fit(positions: int, image_size: int, patch_size: int,
                    merge_factor: int, text_tokens: int) -> int:
    """How many images a prompt can hold beside its text.

    positions: tokens that the language model can read. image_size and
    patch_size: sides in pixels. Each image takes its merged patches and
    one identifier token.
    """
    patches = (image_size // patch_size) ** 2
    tokens = patches // merge_factor**2 + 1
    return max(0, positions - text_tokens) // tokens
