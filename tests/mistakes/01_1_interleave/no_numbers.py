# says: the error does not say both numbers
def interleave(prompt: str, blocks: list[str]) -> str:
    first, *others = prompt.split("<image>")
    if len(others) != len(blocks):
        raise ValueError("wrong number of images")
    return first + "".join(b + t for b, t in zip(blocks, others, strict=True))
