# says: the last, smaller batch was left out
def wasted_tokens(lengths: list[int], batch_size: int) -> int:
    wasted = 0
    for start in range(0, len(lengths) - batch_size + 1, batch_size):
        batch = lengths[start:start + batch_size]
        wasted += max(batch) * len(batch) - sum(batch)
    return wasted
