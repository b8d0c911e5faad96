# says: the text was counted once for each image
def images_that_fit(positions: int, image_size: int, patch_size: int,
                    merge_factor: int, text_tokens: int) -> int:
    patches = (image_size // patch_size) ** 2
    image = patches // merge_factor**2 + 1
    return positions // (image + text_tokens)
