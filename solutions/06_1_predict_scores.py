def predict_scores(num_images: int, tokens_per_image: int,
                   text_tokens: int, batch_size: int, heads: int) -> int:
    """Bytes of the attention scores of one layer, in float32.

    Each head of each sample holds one score for every pair of tokens. An
    image takes its tokens and one identifier. The text comes once.
    """
    length = num_images * (tokens_per_image + 1) + text_tokens
    return batch_size * heads * length**2 * 4
