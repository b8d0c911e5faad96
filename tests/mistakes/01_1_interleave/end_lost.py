# says: the text after the last image is lost
def interleave(prompt: str, blocks: list[str]) -> str:
    text = ""
    for block, piece in zip(blocks, prompt.split("<image>"), strict=False):
        text += piece + block
    return text
