# says: the samples were sorted first
def wasted_tokens(lengths: list[int], batch_size: int) -> int:
    lengths = sorted(lengths)
    wasted = 0
    for start in range(0, len(lengths), batch_size):
        batch = lengths[start:start + batch_size]
        wasted += max(batch) * len(batch) - sum(batch)
    return wasted
