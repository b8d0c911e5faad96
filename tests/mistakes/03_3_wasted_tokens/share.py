# says: that is a share
def wasted_tokens(lengths: list[int], batch_size: int) -> int:
    wasted = all_tokens = 0
    for start in range(0, len(lengths), batch_size):
        batch = lengths[start:start + batch_size]
        wasted += max(batch) * len(batch) - sum(batch)
        all_tokens += max(batch) * len(batch)
    return wasted / all_tokens
