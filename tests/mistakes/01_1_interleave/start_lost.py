# says: the text before the first image is lost
def interleave(prompt: str, blocks: list[str]) -> str:
    pieces = prompt.split("<image>")
    text = ""
    for i in range(len(blocks)):
        text += blocks[i] + pieces[i + 1]
    return text
