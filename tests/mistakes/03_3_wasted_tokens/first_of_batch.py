# says: each batch was padded to its first sample
def wasted_tokens(lengths: list[int], batch_size: int) -> int:
    wasted = 0
    for start in range(0, len(lengths), batch_size):
        batch = lengths[start:start + batch_size]
        wasted += sum(batch[0] - length for length in batch)
    return wasted
