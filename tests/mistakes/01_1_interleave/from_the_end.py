# says: the blocks are in the wrong order
def interleave(prompt: str, blocks: list[str]) -> str:
    first, *others = prompt.split("<image>")
    if len(others) != len(blocks):
        raise ValueError(f"{len(others)} <image>, {len(blocks)} blocks")
    for text in others:
        first += blocks[-1] + text
        blocks = blocks[:-1]
    return first
