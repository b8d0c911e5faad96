# says: a missing image goes unnoticed
def interleave(prompt: str, blocks: list[str]) -> str:
    first, *others = prompt.split("<image>")
    return first + "".join(
        block + text for block, text in zip(blocks, others, strict=False))
