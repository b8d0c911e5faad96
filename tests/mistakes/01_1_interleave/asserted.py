# says: asserts vanish when Python runs with -O (python -O): raise a ValueError instead
def interleave(prompt: str, blocks: list[str]) -> str:
    first, *others = prompt.split("<image>")
    assert len(others) == len(blocks), f"{len(others)} <image>, {len(blocks)} blocks"
    return first + "".join(b + t for b, t in zip(blocks, others, strict=True))
