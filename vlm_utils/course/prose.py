"""Turns of phrase that read as if translated, and what to say instead.

A list of patterns cannot tell good prose from bad; it only keeps out what has been weeded once.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import nbformat

_COUNT = r"(?:\d[\d,.]*|an?|one|two|three|four|five|six|seven|eight|nine|ten)"
_THINGS = (r"(?:tokens?|captions?|images?|samples?|rows?|questions?|answers?|numbers?|steps?|"
           r"batch(?:es)?|models?|lessons?|boxes|parameters|minutes?|bytes)")
# What is advised against, and what to say. Each pattern is looked for without regard to case.
PHRASES = tuple((re.compile(pattern, re.I | re.M), better) for pattern, better in (
    (r"(?<!there )\b(?:is|are|was|were) no (?!longer|more|less|fewer|better|worse|one\b|matter|"
     r"doubt)\w+", "is not a"),
    (r"\bwhere (?:there (?:is|are) (?:no|none|neither)\b|none\b|nothing\b|neither\b|not\b)", "if"),
    (r"(?<!left )(?<!lags )(?<!lag )(?<!falls )(?<!fall )(?<!leave )(?<!leaves )\bbehind\b"
     r"(?! the scenes)", "after"),
    (rf"\b{_COUNT} {_THINGS} an? {_THINGS}\b", "per"),
    (r"(?:^|[.:!?] )Who(?:ever)? [^.!?]*[.!]", "anyone who; or: if you"),
    (r"\bso many (?!\w+ that\b|that\b)\w+", "that many"),
    (r"\banew\b", "again"),
    (r"\bmay be (?:said|stated)\b", "we can say, we can claim"),
    (r"\bfor nothing\b", "for free"),
    (r"\bat selections\b", "when it selects"),
    (r"\b(?:this|that) or that one\b", "one of them"),
    (r"\bis the obvious wish\b", "is the obvious approach"),
    (r"\b(?:things?|questions?) (?:is|are) asked of\b", "must pass"),
))


def turns_of_phrase(path: Path) -> list[str]:
    """Turns of phrase in the text of a notebook or a Markdown page that should be said otherwise.

    Code, link targets and quotations (lines that begin with >) are left alone. A notebook's text
    cells are counted from 1, among all its cells.
    """
    return [f"{place} says {words!r}: say {better!r}"
            for place, text in _texts(path) for words, better in _found(text)]


def _texts(path: Path) -> Iterator[tuple[str, str]]:
    if path.suffix != ".ipynb":
        yield path.name, path.read_text(encoding="utf-8")
        return
    for number, cell in enumerate(nbformat.read(path, as_version=4).cells, start=1):
        if cell.cell_type == "markdown":
            yield f"cell {number} of all ({cell.source.strip()[:30]!r} ...)", cell.source


def _found(text: str) -> Iterator[tuple[str, str]]:
    text = re.sub(r"^(```|~~~).*?^\1|^>.*?$", "", text, flags=re.M | re.S)
    text = re.sub(r"`[^`\n]*`", "``", text)
    text = re.sub(r"\]\([^)]*\)", "]", text)
    text = re.sub(r"(?<!\n)\n(?!\n|[#|*+-])", " ", text)        # a sentence may go over lines
    for pattern, better in PHRASES:
        for match in pattern.finditer(text):
            yield match[0].strip(".:!? ")[:60], better
