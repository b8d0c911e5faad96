def wasted_tokens(lengths: list[int], batch_size: int) -> int:
    """How many padding tokens the batches of these samples hold.

    lengths: tokens of each sample. Batches are cut in this order, each is
    padded to its own longest sample, and the last one may be smaller.
    """
    wasted = 0
    for start in range(0, len(lengths), batch_size):
        batch = lengths[start:start + batch_size]
        wasted += max(batch) * len(batch) - sum(batch)
    return wasted
