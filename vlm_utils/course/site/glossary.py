"""The glossary as a list of terms, and links to it from the first use of each on a page."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from vlm_utils.course.site.markdown import change_prose, rows

_HEADING = re.compile(r"^## (.+)$", re.M)
# Where a link would break what is there: terms, links, pictures, tags, headings, lines of tables.
_CLOSED = re.compile(r"(\{term\}`[^`]*`|!?\[[^\]]*\]\([^)]*\)|<[^>]+>|^#.*$|^\|.*$)", re.M)


@dataclass(frozen=True)
class Term:
    """A word, or several with one meaning; meaning and lesson as the table has them."""

    words: tuple[str, ...]
    meaning: str
    lesson: str


def read_terms(text: str) -> dict[str, list[Term]]:
    """The terms of notebooks/glossary.md under each of its headings.

    Raises ValueError if a row does not have the three columns.
    """
    found: dict[str, list[Term]] = {}
    pieces = _HEADING.split(text)
    for heading, part in zip(pieces[1::2], pieces[2::2], strict=True):
        for row in rows(part):
            if len(row) != 3:
                raise ValueError(f"glossary, {heading}: {row} is not word, meaning and lesson")
            words = re.sub(r"[*`]", "", row[0]).split(", ")
            found.setdefault(heading, []).append(Term(tuple(words), row[1], row[2]))
    return found


def glossary_page(text: str, lessons: dict[str, str]) -> str:
    """notebooks/glossary.md with a list of terms in place of each table.

    lessons: the file of each by its number, as "01".
    """
    parts = [text[:_HEADING.search(text).start()].strip()]
    for heading, terms in read_terms(text).items():
        parts += [f"## {heading}", "```{glossary}"]
        for term in terms:
            link = f"([lesson {term.lesson}]({lessons[term.lesson]}))"
            parts.append("\n".join(term.words) + f"\n  {term.meaning} {link}\n")
        parts.append("```")
    return "\n\n".join(parts[:1]) + "\n\n" + "\n".join(parts[1:]) + "\n"


@dataclass
class TermLinks:
    """Links the first use of each term on one page, and no later one."""

    terms: dict[str, list[Term]]
    _waiting: dict[str, re.Pattern] = field(init=False)

    def __post_init__(self):
        words = [word for terms in self.terms.values() for term in terms for word in term.words]
        # Longer ones first: "weight decay" before a word in it. A word of code is no prose.
        self._waiting = {word: re.compile(rf"(?<![\w{{`-]){_ending(word)}(?![\w`-])", re.I)
                         for word in sorted(words, key=len, reverse=True)}

    def link(self, text: str) -> str:
        """A Markdown text with the terms in it that this page has not linked before."""
        return change_prose(text, self._link_prose)

    def _link_prose(self, prose: str) -> str:
        for word in list(self._waiting):
            parts = _CLOSED.split(prose)
            for i in range(0, len(parts), 2):           # the odd ones are closed
                parts[i], count = self._waiting[word].subn(
                    lambda match, word=word: _role(match[0], word), parts[i], count=1)
                if count:
                    del self._waiting[word]
                    break
            prose = "".join(parts)
        return prose


def _ending(word: str) -> str:
    """A pattern for a word and its plural, over the end of a line too."""
    plural = "(?:es|s)?" if word[-1].isalpha() and len(word) > 3 else ""
    if word.endswith("ch"):
        plural = "(?:es)?"
    return r"\s+".join(map(re.escape, word.split())) + plural


def _role(written: str, word: str) -> str:
    return "{term}`" + re.sub(r"\s+", " ", written) + f" <{word}>`"
