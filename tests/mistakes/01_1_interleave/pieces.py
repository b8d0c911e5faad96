# says: these are pieces: join them into one text
def interleave(prompt: str, blocks: list[str]) -> str:
    first, *others = prompt.split("<image>")
    pieces = [first]
    for block, text in zip(blocks, others, strict=True):
        pieces += [block, text]
    return pieces
