# says: only the first batch was counted
def wasted_tokens(lengths: list[int], batch_size: int) -> int:
    for start in range(0, len(lengths), batch_size):
        batch = lengths[start:start + batch_size]
        return max(batch) * len(batch) - sum(batch)
