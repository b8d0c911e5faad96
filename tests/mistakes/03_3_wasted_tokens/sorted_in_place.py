# says: your function changes its input lengths
def wasted_tokens(lengths: list[int], batch_size: int) -> int:
    lengths.sort()
    wasted = 0
    for start in range(0, len(lengths), batch_size):
        batch = lengths[start:start + batch_size]
        wasted += max(batch) * len(batch) - sum(batch)
    return wasted
