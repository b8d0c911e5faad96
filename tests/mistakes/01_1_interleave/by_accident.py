# says: IndexError was raised by accident
def interleave(prompt: str, blocks: list[str]) -> str:
    pieces = prompt.split("<image>")
    text = pieces[0]
    for i, piece in enumerate(pieces[1:]):
        text += blocks[i] + piece
    return text
