# says: block 2 went into block 1
def interleave(prompt: str, blocks: list[str]) -> str:
    for block in blocks:
        prompt = prompt.replace("<image>", block, 1)
    return prompt
