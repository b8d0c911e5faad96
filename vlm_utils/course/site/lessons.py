"""A lesson's notebook as a page of the site: its card, its pictures as files, its solutions folded.

Nothing is executed. What is shown is what the notebook holds.
"""

from __future__ import annotations

import base64
import hashlib
import io
import re
from collections.abc import Callable
from dataclasses import dataclass
from html import escape
from pathlib import Path

import nbformat
from PIL import Image

from vlm_utils.course.cells import WIDGET
from vlm_utils.course.colab import put_colab
from vlm_utils.course.exercises import LOADS, SOLUTION, SOLUTIONS, exercises, table
from vlm_utils.course.site.glossary import TermLinks
from vlm_utils.course.site.markdown import after_details, change_links, rows

OUTPUTS = "outputs"     # the folder beside the lessons' pages that holds their pictures
_PICTURE = re.compile(r'<img alt="([^"]*)" src="data:image/(\w+);base64,([^"]+)">')
_NEEDS = re.compile(r"\*\*Before:\*\*\s*(.+?)\s*(?=\*\*Time:\*\*)", re.S)
_EXPLORER = "VBox("


@dataclass(frozen=True)
class Facts:
    """What README.md's table says of a lesson; minutes and memory as it has them."""

    name: str
    teaches: str
    minutes: float
    memory: str


def read_facts(readme: str) -> dict[str, Facts]:
    """The lessons of README.md's table by their file's stem, as "01_architecture".

    Raises ValueError if there is none.
    """
    found = {}
    for row in rows(readme):
        match = re.fullmatch(r"\[(\d\d [^\]]+)\]\(notebooks/(\w+)\.ipynb\)", row[0])
        if match:
            found[match[2]] = Facts(match[1], row[2], float(row[3]), row[4])
    if not found:
        raise ValueError("README.md has no table with a row for each lesson")
    return found


class Lesson:
    """One notebook on its way into the site.

    pictures: the folder into which its pictures go. ways: sentences that say how to run it.
    origin: one sentence on where its outputs come from.
    """

    def __init__(self, path: Path, facts: Facts, pictures: Path, ways: str, origin: str):
        self.stem, self.facts, self.pictures = path.stem, facts, pictures
        self.ways, self.origin = ways, origin
        self.notebook = nbformat.read(path, as_version=4)

    def for_site(self, link: Callable[[str], str], terms: TermLinks):
        """The notebook as myst-nb shall read it. link: changes the target of a link."""
        put_colab(self.notebook, self.stem, "")        # the card has the way to Colab
        for number, cell in enumerate(self.notebook.cells):
            if cell.cell_type == "markdown":
                text = self._with_card(cell.source) if number == 0 else cell.source
                text = change_links(after_details(text), link)
                cell.source = terms.link(text)
            else:
                self._fold_solution(cell)
                cell.outputs = [self._shown(out) for out in cell.outputs]
        self.notebook.metadata.pop("widgets", None)
        return self.notebook

    def _with_card(self, text: str) -> str:
        """The first cell, with the card in place of the paragraph that it repeats.

        A student may have rewritten the cell: without that paragraph, the card follows it.
        """
        needs = _NEEDS.search(text)
        if not needs:
            return f"{text}\n\n{self._card('see above')}"
        paragraph = next(p for p in text.split("\n\n") if "**Before:**" in p)
        return text.replace(paragraph, self._card(re.sub(r"\s+", " ", needs[1])))

    def _card(self, needs: str) -> str:
        minutes = self.facts.minutes
        time = "under a minute" if minutes < 1 else f"about {minutes:.0f} minutes"
        lines = [f"- **Runs in** {time} on 2 CPU cores, with {self.facts.memory} of memory",
                 f"- **You need:** {needs}",
                 f"- **You meet:** {self.facts.teaches}",
                 *self._exercises(),
                 f"- **Run it:** {self.ways}",
                 f"- **Outputs:** {self.origin}"]
        return "\n".join(["```{admonition} At a glance", ":class: at-a-glance",
                          ":name: at-a-glance", "", *lines, "```"])

    def _exercises(self) -> list[str]:
        titles = [match[1] for cell in self.notebook.cells if cell.cell_type == "markdown"
                  for match in re.finditer(r"^### (Exercise \d+: .+)$", cell.source, re.M)]
        own = [e for e in exercises() if e.lesson == self.stem[:2]]
        if not own:
            return []
        minutes = sum(table()[e.stem][1] for e in own)
        links = "; ".join(f"[{title.split(': ', 1)[1]}](#{_anchor(title)})" for title in titles)
        return [f"- **Exercises:** {len(own)}, about {minutes} minutes: {links}"]

    def _fold_solution(self, cell) -> None:
        """Show a solution's source, folded, in place of the cell that would load it."""
        tags = cell.metadata.get("tags", [])
        if SOLUTION in tags and (match := LOADS.search(cell.source)):
            source = (SOLUTIONS / f"{match[1]}.py").read_text(encoding="utf-8")
            cell.source = source.strip()
            cell.metadata["tags"] = [*tags, "hide-input"]
            cell.metadata["mystnb"] = {"code_prompt_show": "Show the solution",
                                       "code_prompt_hide": "Hide the solution"}

    def _shown(self, out):
        """An output with each of its pictures in a file, beside its alternative text."""
        data = out.get("data", {})
        still = str(data.get("text/plain", "")).startswith(_EXPLORER)
        for kind in [k for k in data if k.startswith("image/")]:
            # Those of the course have one: lint.py sees to that. A student's own may have none.
            alt = out.metadata.get(kind, {}).get("alt", "") or "A figure without a description"
            data.setdefault("text/html", f'<img alt="{escape(alt)}" '
                                         f'src="data:{kind};base64,{data.pop(kind)}">')
        if html := data.get("text/html"):
            html = re.sub(r"<style scoped>.*?</style>", "", "".join(html), flags=re.S)
            html = _PICTURE.sub(self._to_file, html.replace(' border="1"', ""))
            out.data = nbformat.from_dict({"text/html": self._still(html) if still else html})
        elif WIDGET in data:
            del data[WIDGET]
        return out

    def _to_file(self, match: re.Match) -> str:
        alt, kind, pixels = match[1], match[2], base64.b64decode(match[3])
        name = f"{self.stem}_{hashlib.sha256(pixels).hexdigest()[:12]}.{kind}"
        self.pictures.mkdir(parents=True, exist_ok=True)
        (self.pictures / name).write_bytes(pixels)
        width, height = Image.open(io.BytesIO(pixels)).size
        return (f'<img alt="{alt}" src="{OUTPUTS}/{name}" width="{width}" height="{height}" '
                'loading="lazy">')

    def _still(self, html: str) -> str:
        """What the explorer showed when its lesson ran, and where to find the live one."""
        return (f'<figure class="still">{html}<figcaption>A still picture of the explorer, which '
                'needs a running kernel. <a href="#at-a-glance">How to run this lesson</a>'
                '</figcaption></figure>')


def _anchor(title: str) -> str:
    """The anchor of a heading, as GitHub and MyST make it."""
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")
