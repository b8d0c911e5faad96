# says: these are scores, not bytes
def predict_scores(num_images: int, tokens_per_image: int,
                   text_tokens: int, batch_size: int, heads: int) -> int:
    length = num_images * (tokens_per_image + 1) + text_tokens
    return batch_size * heads * length**2
