# says: your function changes its input blocks
def interleave(prompt: str, blocks: list[str]) -> str:
    pieces = prompt.split("<image>")
    text = pieces.pop(0)
    while pieces:
        text += blocks.pop(0) + pieces.pop(0)
    return text
