"""How many frames a prompt has room for."""

from __future__ import annotations


def budget_frames(tokens: int, tokens_per_frame: int) -> int:
    """Whole frames that fit into a budget of tokens: many coarse ones, or few fine ones.

    tokens_per_frame: all that a frame costs, its identifier and its date in the prompt included.
    Raises ValueError if not even one frame fits, as a prompt without frames asks about nothing.
    """
    if tokens_per_frame < 1:
        raise ValueError(f"a frame costs at least 1 token, not {tokens_per_frame}")
    if tokens < tokens_per_frame:
        raise ValueError(f"a budget of {tokens} tokens holds no frame of {tokens_per_frame}: "
                         "merge more patches into a token, or allow more tokens")
    return tokens // tokens_per_frame
