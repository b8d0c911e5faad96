"""What can be wrong with a lesson as a file, without running it.

`faults` lists everything at once; an empty list is a lesson that may be committed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from html import escape, unescape
from pathlib import Path
from urllib.parse import unquote

import nbformat

from vlm_utils.course.cells import WIDGET, is_progress_line, marked_source, to_html
from vlm_utils.course.prose import turns_of_phrase

MAX_LINES, MAX_COLUMNS, MAX_BYTES = 25, 76, 1_500_000
COMPARED = "nbval-check-output"
LEAST_COMPARED, LEAST_FIGURES = 5, 2
_NO_TEXT = "No description has been provided for this image"     # what nbconvert then writes
_UNIT = re.compile(r"\d\s?(?:s|ms|sec|seconds?|minutes?|[kMG]i?B|bytes)\b")
_NUMBER = re.compile(r"(?<![\w.,/-])\d+(?:,\d{3})*(?:\.\d+)?%?(?![\w/-]|[.,]\d)")
_LINK = re.compile(r"\]\(\s*<?([^)\s>]+)[^)]*\)|(?:href|src)=[\"']([^\"']+)")
_PROGRESS = re.compile(r"\d+%\||\d+ examples \[| examples/s|it/s\]")    # whatever looks like it
_HEADING = re.compile(r"^(#{1,6})\s+(.+?)\s*#*$", re.M)


def faults(path: Path) -> list[str]:
    """Everything that is wrong with a notebook, in words; cells are numbered as JupyterLab does."""
    notebook = nbformat.read(path, as_version=4)
    checks = (_order_of_execution, _sizes, _stored_outputs, _figures, _comparison, _headings)
    found = [fault for check in checks for fault in check(notebook)]
    found += [*_marked_cells(notebook, path.parent), *broken_links(path), *turns_of_phrase(path)]
    found += [f"the prose repeats {number}, which a cell prints"
              for number in repeated_numbers(notebook)]
    if path.stat().st_size > MAX_BYTES:
        found.append("larger than 1.5 MB")
    return found


def repeated_numbers(notebook) -> list[str]:
    """Numbers of the prose that a stored output of the same lesson holds too.

    Numbers count from 10 up, or with a decimal point or a percent sign; 1,000 is 1000, and 98% is
    0.98. Left out, because no cell can make them wrong: numbers inside words (ViT-B/16), in code
    and link targets, of lessons and sections ("lesson 04", "## 3.", "04 · Training"), and what the
    first cell promises after Time and Peak memory.
    """
    printed = {value for cell in _code(notebook) for out in cell.outputs
               for _, value in _numbers(_printed(out))}
    return [text for cell in _prose(notebook) for text, value in _numbers(_plain(cell.source))
            if value in printed]


def broken_links(path: Path) -> list[str]:
    """Links of a notebook or a Markdown page that lead nowhere within the repository.

    Of the web's pages nothing is asked.
    """
    found = []
    for text in _texts(path):
        text = re.sub(r"`[^`\n]*`", "", _without_code_blocks(text))
        for link in (unquote(a or b) for a, b in _LINK.findall(text)):
            if re.match(r"[a-z][a-z0-9+.-]*:|//", link, re.I):
                continue
            name, _, anchor = link.partition("#")
            target = path.parent / name if name else path
            if not target.exists():
                found.append(f"a link to {link}, which is not there")
            elif anchor and target.suffix in (".ipynb", ".md") and anchor not in anchors(target):
                found.append(f"a link to {link}, but {target.name} has no such heading")
    return found


def anchors(path: Path) -> set[str]:
    """What a link to a notebook or a Markdown page may name after its #."""
    found = set()
    for text in _texts(path):
        found |= set(re.findall(r"(?:id|name)=[\"']([^\"']+)", text))
        for _, title in _HEADING.findall(_without_code_blocks(text)):
            plain = re.sub(r"[`*_]|\]\([^)]*\)|\[", "", title)
            if path.suffix == ".ipynb":     # JupyterLab: the title with hyphens for spaces
                found.add(plain.replace(" ", "-"))
            else:                           # GitHub: lower case, without punctuation
                found.add(re.sub(r"[^\w\- ]", "", plain.lower()).replace(" ", "-"))
    return found


def _texts(path: Path) -> list[str]:
    if path.suffix == ".ipynb":
        return [cell.source for cell in _prose(nbformat.read(path, as_version=4))]
    return [path.read_text(encoding="utf-8")]


def _code(notebook) -> list:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def _prose(notebook) -> list:
    return [cell for cell in notebook.cells if cell.cell_type == "markdown"]


def _tags(cell) -> list[str]:
    return cell.metadata.get("tags", [])


def _printed(out) -> str:
    """The text of an output; that of a figure or a widget only names its class."""
    data = out.get("data", {})
    if any(kind.startswith("image/") or "widget" in kind for kind in data) \
            or is_progress_line(out):
        return ""
    return out.get("text", "") + str(data.get("text/plain", ""))


def _order_of_execution(notebook) -> Iterator[str]:
    counts = [cell.execution_count for cell in _code(notebook)]
    if counts != list(range(1, len(counts) + 1)):
        yield "not executed from top to bottom: run `make notebooks`"


def _sizes(notebook) -> Iterator[str]:
    for number, cell in enumerate(_code(notebook), start=1):
        lines = cell.source.split("\n")
        if lines[0].startswith("# %load -s "):      # a cell that shows the package's source
            continue
        if len(lines) > MAX_LINES:
            yield f"cell {number} is too long: {len(lines)} lines, {MAX_LINES} are allowed"
        if max(map(len, lines)) > MAX_COLUMNS:
            yield f"cell {number} is too wide: {max(map(len, lines))} columns, not {MAX_COLUMNS}"


def _marked_cells(notebook, folder: Path) -> Iterator[str]:
    for number, cell in enumerate(_code(notebook), start=1):
        if marked_source(cell.source, folder) not in (None, cell.source):
            yield f"cell {number} differs from its module: run `make notebooks`"


def _stored_outputs(notebook) -> Iterator[str]:
    for number, cell in enumerate(_code(notebook), start=1):
        for out in cell.outputs:
            text = out.get("text", "") + str(out.get("data", {}).get("text/plain", ""))
            if out.output_type == "error" and "raises-exception" not in _tags(cell):
                yield f"cell {number} stores an error"
            if out.output_type == "stream" and out.name == "stderr":
                yield f"cell {number} stores a warning or progress: {text[:80]}"
            elif re.search(r"\w*Warning: ", text):
                yield f"cell {number} stores a warning: {text[:80]}"
            elif _PROGRESS.search(text):
                yield f"cell {number} stores a progress bar"
            elif WIDGET in out.get("data", {}) and not _is_shown_later(out, cell, notebook):
                yield (f"cell {number} stores a widget without its state, which readers see as "
                       f"'Error displaying widget': {text[:60]}")


def _is_shown_later(out, cell, notebook) -> bool:
    """Does a widget's view have its state in the file, or is it the explorer's, which only a
    kernel brings to life, as its lesson says?"""
    states = notebook.metadata.get("widgets", {}).get(
        "application/vnd.jupyter.widget-state+json", {}).get("state", {})
    return out.data[WIDGET].get("model_id") in states or "Explorer(" in cell.source


def _figures(notebook) -> Iterator[str]:
    """Each figure says in words what it shows, and still does so in the notebook's HTML."""
    figures = 0
    for number, cell in enumerate(_code(notebook), start=1):
        for out in cell.outputs:
            for kind in [k for k in out.get("data", {}) if k.startswith("image/")]:
                figures += 1
                alt = out.metadata.get(kind, {}).get("alt", "").strip()
                if not alt:
                    yield f"cell {number} has a figure without alternative text"
                elif f'<img alt="{escape(alt)}"' not in str(out.data.get("text/html", "")):
                    yield (f"cell {number} has a figure whose alternative text JupyterLab does not "
                           "show: display it with vlm_utils.plots.show")
    if figures < LEAST_FIGURES:
        yield f"{figures} figures, at least {LEAST_FIGURES} are wanted"
    # The pixels play no part in this, and are most of the page.
    page = re.sub(r"base64,[^\"')]+", "base64,", to_html(notebook))
    found = [re.search(r"\balt=(\"[^\"]*\"|'[^']*')", tag)
             for tag in re.findall("<img[^>]*>", page)]
    texts = [unescape(alt[1][1:-1]).strip() if alt else "" for alt in found]
    missing = sum(text in ("", _NO_TEXT) for text in texts)
    missing += sum(text not in texts for text in _alternative_texts(notebook))
    if missing:
        yield f"{missing} pictures without their alternative text in the HTML page"


def _alternative_texts(notebook) -> Iterator[str]:
    for cell in _code(notebook):
        for out in cell.outputs:
            for kind in [k for k in out.get("data", {}) if k.startswith("image/")]:
                if alt := out.metadata.get(kind, {}).get("alt", "").strip():
                    yield alt


def _comparison(notebook) -> Iterator[str]:
    """What nbval compares must be stored, and be the same on every machine."""
    if not any("headline" in _tags(cell) for cell in _code(notebook)):
        yield "no headline"
    compared = 0
    for number, cell in enumerate(_code(notebook), start=1):
        if COMPARED not in _tags(cell):
            continue
        compared += 1
        text = "".join(_printed(out) for out in cell.outputs)
        if not text.strip():
            yield f"cell {number} is to be compared, but prints nothing that is stored"
        if _UNIT.search(text):
            yield f"cell {number} compares seconds or bytes, which differ by machine"
    if compared < LEAST_COMPARED:
        yield f"{compared} outputs are compared, at least {LEAST_COMPARED} are wanted"


def _headings(notebook) -> Iterator[str]:
    """One title, first of all; no level left out; numbered sections in order."""
    texts = [_without_code_blocks(cell.source) for cell in _prose(notebook)]
    found = [(len(marks), title) for text in texts for marks, title in _HEADING.findall(text)]
    levels = [level for level, _ in found]
    first = notebook.cells[0] if notebook.cells else {"cell_type": "", "source": ""}
    if first["cell_type"] != "markdown" or not first["source"].startswith("# "):
        yield "does not start with its title"
    if levels.count(1) != 1:
        yield f"{levels.count(1)} titles (headings of level 1), one is wanted"
    for (before, _), (level, title) in zip(found, found[1:], strict=False):
        if level > before + 1:
            yield f"heading {title!r} skips a level"
    numbers = [int(match[1]) for level, title in found
               if level == 2 and (match := re.match(r"(\d+)\.\s", title))]
    if numbers != list(range(1, len(numbers) + 1)):
        yield f"sections are numbered {numbers}"


def _without_code_blocks(text: str) -> str:
    return re.sub(r"^(```|~~~).*?^\1", "", text, flags=re.M | re.S)


def _plain(text: str) -> str:
    """Prose without what is no statement about a number: code, link targets, names of places."""
    text = re.sub(r"`[^`\n]*`", " ", _without_code_blocks(text))
    text = re.sub(r"\]\([^)]*\)", "]", text)
    text = re.sub(r"\*\*(Time|Peak memory):\*\*.*?(\.\s|\.?$)", " ", text, flags=re.S)
    text = re.sub(r"^#+\s+\d+[.\s]", "", text, flags=re.M)
    text = re.sub(r"\b\d\d\s+·", "", text)
    return re.sub(r"\b(lessons?|sections?|cells?)\s+\d+((\s*(,|and|to|or)\s*)+\d+)*", "", text,
                  flags=re.I)


def _numbers(text: str) -> Iterator[tuple[str, float]]:
    """The numbers in a text that are worth comparing, as written and as values."""
    for written in _NUMBER.findall(text):
        value = float(written.rstrip("%").replace(",", ""))
        if written.endswith("%"):
            yield written, round(value / 100, 9)
        elif "." in written or value >= 10:
            yield written, round(value, 9)
