# says: the patches form a square
def images_that_fit(positions: int, image_size: int, patch_size: int,
                    merge_factor: int, text_tokens: int) -> int:
    patches = image_size // patch_size
    tokens = patches // merge_factor**2 + 1
    return max(0, positions - text_tokens) // tokens
