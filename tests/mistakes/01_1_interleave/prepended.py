# says: this is the prepended layout
def interleave(prompt: str, blocks: list[str]) -> str:
    return "".join(blocks) + prompt.replace("<image>", "")
