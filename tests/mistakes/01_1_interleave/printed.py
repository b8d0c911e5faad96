# says: your function prints and returns nothing (None)
def interleave(prompt: str, blocks: list[str]) -> str:
    first, *others = prompt.split("<image>")
    print(first + "".join(
        block + text for block, text in zip(blocks, others, strict=True)))
