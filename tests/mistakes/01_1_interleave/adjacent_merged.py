# says: two images side by side were taken for one
import re


def interleave(prompt: str, blocks: list[str]) -> str:
    pieces = re.split("(?:<image>)+", prompt)
    text = pieces[0]
    for block, piece in zip(blocks, pieces[1:], strict=False):
        text += block + piece
    return text
