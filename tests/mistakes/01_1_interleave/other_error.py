# says: the message is right and the type is not
def interleave(prompt: str, blocks: list[str]) -> str:
    first, *others = prompt.split("<image>")
    if len(others) != len(blocks):
        raise IndexError(f"{len(others)} <image>, {len(blocks)} blocks")
    return first + "".join(b + t for b, t in zip(blocks, others, strict=True))
