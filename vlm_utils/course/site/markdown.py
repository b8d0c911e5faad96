"""Markdown as this site needs it: prose apart from code, links that lead to pages of the site."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import PurePosixPath

# What is no prose: fenced blocks, code in a line. Neither links nor terms are looked for there.
_CODE = re.compile(r"(^(?P<fence>```+|~~~+).*?^(?P=fence)[^\n]*$|(?P<tick>`+)[^`].*?(?P=tick))",
                   re.M | re.S)
_LINK = re.compile(r"\]\(\s*<?(?P<target>[^)\s>]+)>?(?P<title>[^)]*)\)")
_SPECIAL = re.compile(r"([\\*_\[\]<>#$|~{}])")


def change_prose(text: str, change: Callable[[str], str]) -> str:
    """Apply a change to everything in a Markdown text that is not code."""
    parts, end = [], 0
    for match in _CODE.finditer(text):
        parts += [change(text[end:match.start()]), match[0]]
        end = match.end()
    return "".join([*parts, change(text[end:])])


def change_links(text: str, change: Callable[[str], str]) -> str:
    """Replace the target of every link and picture by what `change` returns for it."""
    def once(match: re.Match) -> str:
        return f"]({change(match['target'])}{match['title']})"
    return change_prose(text, lambda prose: _LINK.sub(once, prose))


def is_foreign(target: str) -> bool:
    """Does a link lead out of the repository: to another host, to an address of mail?"""
    return bool(re.match(r"[a-z][a-z0-9+.-]*:|//", target, re.I))


def relative(target: str, page: str) -> str:
    """The way from one page of the site to another; both are paths from its root."""
    return os.path.relpath(target, PurePosixPath(page).parent).replace(os.sep, "/")


def escape(text: str) -> str:
    """Plain text as Markdown that shows the same letters; code between backticks stays code."""
    return change_prose(text, lambda prose: _SPECIAL.sub(r"\\\1", prose))


def after_details(text: str) -> str:
    """A blank line after </details>: without it, Markdown takes the next lines for HTML."""
    return re.sub(r"^(</details>)\n(?=\S)", r"\1\n\n", text, flags=re.M)


def section(text: str, heading: str) -> str:
    """What comes under a heading, to the next heading of its level or higher.

    Raises ValueError if the text has no such heading.
    """
    match = re.search(rf"^(#+) {re.escape(heading)}\s*\n", text, re.M)
    if not match:
        raise ValueError(f"no heading {heading!r}")
    rest = text[match.end():]
    end = re.search(rf"^#{{1,{len(match[1])}}} ", rest, re.M)
    return rest[:end.start() if end else None].strip()


def rows(text: str) -> list[list[str]]:
    """The cells of every row of the tables in a Markdown text, heads and rules left out."""
    lines = [line.strip() for line in text.split("\n")]
    found = []
    for number, line in enumerate(lines):
        following = lines[number + 1] if number + 1 < len(lines) else ""
        rule = re.fullmatch(r"[|:\- ]+", line) or re.fullmatch(r"[|:\- ]*-[|:\- ]*", following)
        if line.startswith("|") and not rule:
            found.append([cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip("|"))])
    return found
