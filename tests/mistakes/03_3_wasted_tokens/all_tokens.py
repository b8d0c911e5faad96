# says: these are all tokens
def wasted_tokens(lengths: list[int], batch_size: int) -> int:
    total = 0
    for start in range(0, len(lengths), batch_size):
        batch = lengths[start:start + batch_size]
        total += max(batch) * len(batch)
    return total
