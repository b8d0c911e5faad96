# says: the longest of a batch was counted once
def wasted_tokens(lengths: list[int], batch_size: int) -> int:
    wasted = 0
    for start in range(0, len(lengths), batch_size):
        batch = lengths[start:start + batch_size]
        wasted += max(batch) - sum(batch)
    return wasted
