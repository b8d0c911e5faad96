"""Lessons as files: which there are, the cells that show the package's source, progress bars."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import nbformat

MARKER = re.compile(r"^# %load -s (\S+) (\S+)$")
PROGRESS = re.compile(r"\d+%\||\d+ examples \[| examples/s|it/s\]")


def lessons(folder: Path) -> list[Path]:
    """The numbered notebooks of a folder, in order. Raises FileNotFoundError without any."""
    found = sorted(folder.glob("[0-9][0-9]_*.ipynb"))
    if not found:
        raise FileNotFoundError(f"no lesson (01_name.ipynb) in {folder}: run this command from a "
                                "clone of the repository")
    return found


def choose(folder: Path, only: list[str] | None) -> list[Path]:
    """The lessons whose names start with one of these numbers, or all.

    Raises ValueError for a number that no lesson has: else nothing would run, and pass.
    """
    found = lessons(folder)
    for number in only or []:
        if not any(path.name.startswith(number) for path in found):
            raise ValueError(f"no lesson {number!r}: there are {[p.stem for p in found]}")
    return [path for path in found if not only or path.name.startswith(tuple(only))]


def headline(notebook) -> str:
    """What the cell tagged "headline" printed."""
    for cell in notebook.cells:
        if "headline" in cell.metadata.get("tags", []):
            texts = [out.text for out in cell.get("outputs", []) if out.output_type == "stream"]
            return "".join(texts).strip().split("\n")[-1]
    return ""


def to_html(notebook) -> str:
    """The notebook as one HTML page; of the templates, "classic" keeps alternative text."""
    from nbconvert import HTMLExporter
    return HTMLExporter(template_name="classic").from_notebook_node(notebook)[0]


def strip_progress(notebook) -> None:
    """Take finished progress bars out of the outputs: stored, they would stand still at 0%."""
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [out for out in cell.outputs if not is_progress(out)]


def fill_marked_cells(notebook, folder: Path) -> None:
    """Write the module's source into each cell that starts with `# %load -s name file`."""
    for cell in notebook.cells:
        if cell.cell_type == "code" and (marked := marked_source(cell.source, folder)):
            cell.source = marked


def sync_lessons(folder: Path) -> int:
    """fill_marked_cells for every lesson of a folder."""
    for path in lessons(folder):
        notebook = nbformat.read(path, as_version=4)
        fill_marked_cells(notebook, path.parent)
        nbformat.write(notebook, path)
    return 0


def marked_source(source: str, folder: Path) -> str | None:
    """What a marked cell must hold: its marker and the named definitions; None if not marked.

    Raises ValueError where the file has no such definition.
    """
    first = source.split("\n", 1)[0]
    match = MARKER.match(first)
    if not match:
        return None
    text = (folder / match[2]).resolve().read_text(encoding="utf-8")
    definitions = {node.name: node for node in ast.parse(text).body if hasattr(node, "name")}
    lines, parts = text.split("\n"), []
    for name in match[1].split(","):
        if name not in definitions:
            raise ValueError(f"{match[2]} defines no {name}")
        node = definitions[name]
        start = min([node.lineno] + [d.lineno for d in node.decorator_list])
        parts.append("\n".join(lines[start - 1:node.end_lineno]))
    return first + "\n" + "\n\n\n".join(parts)


def is_progress(out) -> bool:
    """Is an output a progress bar? These come and go with what is cached and how fast it goes."""
    if out.output_type == "stream":
        return out.name == "stderr" and bool(PROGRESS.search(out.text))
    data = out.get("data", {})
    return ("application/vnd.jupyter.widget-view+json" in data
            and bool(PROGRESS.search(data.get("text/plain", ""))))
