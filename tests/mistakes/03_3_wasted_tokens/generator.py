# says: the result is a generator, which has no values yet
def wasted_tokens(lengths: list[int], batch_size: int) -> int:
    for start in range(0, len(lengths), batch_size):
        batch = lengths[start:start + batch_size]
        yield max(batch) * len(batch) - sum(batch)
