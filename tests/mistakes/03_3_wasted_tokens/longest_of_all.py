# says: all batches were padded to the longest sample of all
def wasted_tokens(lengths: list[int], batch_size: int) -> int:
    return max(lengths) * len(lengths) - sum(lengths)
