# says: every <image> became block 1
def interleave(prompt: str, blocks: list[str]) -> str:
    return prompt.replace("<image>", blocks[0])
