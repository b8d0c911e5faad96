# says: the identifier was forgotten
def images_that_fit(positions: int, image_size: int, patch_size: int,
                    merge_factor: int, text_tokens: int) -> int:
    patches = (image_size // patch_size) ** 2
    tokens = patches // merge_factor**2
    return max(0, positions - text_tokens) // tokens
