def interleave(prompt: str, blocks: list[str]) -> str:
    """The prompt with block k in place of its k-th `<image>`.

    A block is all that stands for one image: its placeholders and its
    identifier, as in "<image><image><image_1>". Raises ValueError, with
    both numbers, if `<image>` and blocks differ in number.
    """
    first, *others = prompt.split("<image>")
    if len(others) != len(blocks):
        raise ValueError(f"the prompt has {len(others)} <image> and "
                         f"{len(blocks)} blocks were given")
    return first + "".join(
        block + text for block, text in zip(blocks, others, strict=True))
