# says: the merging was forgotten
def images_that_fit(positions: int, image_size: int, patch_size: int,
                    merge_factor: int, text_tokens: int) -> int:
    tokens = (image_size // patch_size) ** 2 + 1
    return max(0, positions - text_tokens) // tokens
