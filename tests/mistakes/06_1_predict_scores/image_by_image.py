# says: each image was taken by itself
def predict_scores(num_images: int, tokens_per_image: int,
                   text_tokens: int, batch_size: int, heads: int) -> int:
    scores = num_images * (tokens_per_image + 1)**2 + text_tokens**2
    return batch_size * heads * scores * 4
