# says: .replace does not change a text, it returns a new one
def interleave(prompt: str, blocks: list[str]) -> str:
    for block in blocks:
        prompt.replace("<image>", block, 1)
    return prompt
