# says: raise a ValueError instead, with a message that holds 4 and 3
def interleave(prompt: str, blocks: list[str]) -> str:
    first, *others = prompt.split("<image>")
    assert len(others) == len(blocks)
    return first + "".join(b + t for b, t in zip(blocks, others, strict=True))
