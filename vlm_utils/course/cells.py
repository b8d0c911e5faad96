"""Lessons as files: which there are, the cells that show the package's source, progress bars."""

from __future__ import annotations

import ast
import copy
import re
from pathlib import Path

import nbformat

from vlm_utils.course.address import stored_address
from vlm_utils.course.colab import put_colab

WIDGET = "application/vnd.jupyter.widget-view+json"
MARKER = re.compile(r"^# %load -s (\S+) (\S+)$")
# A whole line as tqdm writes it: with a total, and without one.
_TIME = r"(\d+:)+\d\d"
_BAR = re.compile(
    rf"(.*: ?)?\s*\d+%\|[^|]*\|\s*[\d.]+\w?/[\d.?]+\w?\s\[{_TIME}<({_TIME}|\?)(, .*)?\]\s*"
    rf"|(.*: ?)?[\d.]+\w?\s?\w*\s\[{_TIME}, .*/\w+(, .*)?\]\s*")


def lessons(folder: Path) -> list[Path]:
    """The numbered notebooks of a folder, in order. Raises FileNotFoundError without any."""
    found = sorted(folder.glob("[0-9][0-9]_*.ipynb"))
    if not found:
        raise FileNotFoundError(f"no lesson (01_name.ipynb) in {folder}: run this command from a "
                                "clone of the repository")
    return found


def choose(folder: Path, only: list[str] | None) -> list[Path]:
    """The lessons of these numbers, 04 or 4, or all.

    Raises ValueError for a number that no lesson has: else nothing would run, and pass.
    """
    found = lessons(folder)
    chosen = []
    for asked in only or []:
        # By the number and not by its first digit: 1 is lesson 01, and not 10.
        wanted = asked.zfill(2) if asked.isdecimal() else asked
        of_number = [path for path in found if wanted in (path.stem, path.stem.partition("_")[0])]
        if not of_number:
            raise ValueError(f"no lesson {asked!r}: there are {[p.stem for p in found]}")
        chosen += of_number
    return [path for path in found if not only or path in chosen]


def headline(notebook) -> str:
    """The last line that the cell tagged "headline" printed; not a warning, on stderr."""
    for cell in notebook.cells:
        if "headline" in cell.metadata.get("tags", []):
            texts = [out.text for out in cell.get("outputs", [])
                     if out.output_type == "stream" and out.name == "stdout"]
            return "".join(texts).strip().split("\n")[-1]
    return ""


def title(notebook) -> str:
    """The text of the first heading, without marks; "" if there is none."""
    for cell in notebook.cells:
        if cell.cell_type == "markdown" and (found := re.search(r"^#+\s+(.+?)\s*#*$", cell.source,
                                                                re.M)):
            return re.sub(r"[`*_]|\]\([^)]*\)|\[", "", found[1])
    return ""


def to_html(notebook, name: str = "Notebook") -> str:
    """The notebook as one HTML page with the lesson's title, or else this name.

    Of nbconvert's templates, "classic" keeps alternative text.
    """
    from nbconvert import HTMLExporter  # half a second that no test and no check need
    resources = {"metadata": {"name": title(notebook) or name}}
    return HTMLExporter(template_name="classic").from_notebook_node(notebook, resources)[0]


def merge_streams(notebook) -> None:
    """Join neighbouring pieces of one stream: where a kernel cuts them depends on the moment."""
    for cell in notebook.cells:
        if cell.cell_type == "code":
            merged = []
            for out in cell.outputs:
                before = merged[-1] if merged else {}
                if out.output_type == "stream" == before.get("output_type") and (
                        out.name == before.name):
                    before.text += out.text
                else:
                    merged.append(out)
            cell.outputs = merged


def strip_progress(notebook) -> None:
    """Take out of the outputs what no file can show: finished bars, and widgets without a kernel.

    Bars would stand still at 0%. Of a widget that brings a page of HTML as well, the page is kept.
    """
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = without_progress(cell.outputs)
            for out in cell.outputs:
                if "text/html" in out.get("data", {}):
                    out.data.pop(WIDGET, None)


def without_progress(outputs: list) -> list:
    """Copies of outputs without progress bars, which depend on the cache and on how fast it goes.

    From stderr, lines that are a whole bar of tqdm go, and nothing else: a warning stays, also one
    that holds "50%|".
    """
    kept = []
    for out in copy.deepcopy(outputs):
        if out.output_type == "stream" and out.name == "stderr":
            parts = re.findall(r"[^\r\n]*[\r\n]*", out.text)
            out.text = "".join(part for part in parts if part.strip("\r")
                               and not _BAR.fullmatch(part.strip("\r\n")))
            # tqdm moves the cursor about with these; alone, they show nothing.
            if not re.sub(r"\s|\x1b\[A", "", out.text):
                continue
        data = out.get("data", {})
        if WIDGET in data and _BAR.fullmatch(data.get("text/plain", "").strip()):
            continue
        kept.append(out)
    return kept


def is_progress_line(out) -> bool:
    """Is an output the line of plots.progress? It stays in the file, and tells of one run only."""
    return bool(out.get("metadata", {}).get("progress"))


def comparable(outputs: list) -> list:
    """What two runs of a cell must have in common: neither progress nor pixels.

    The pixels of a figure differ by version of matplotlib; nbval leaves out PNGs for that reason,
    and here the same pixels in an <img>, too.
    """
    kept = []
    for out in without_progress(outputs):
        if is_progress_line(out):
            continue
        if "image/png" in out.get("data", {}):
            out.data = type(out.data)({"image/png": out.data["image/png"]})
        elif 'src="data:image/' in str(out.get("data", {}).get("text/html", "")):
            del out.data["text/html"]
        kept.append(out)
    return kept


def fill_marked_cells(notebook, folder: Path) -> None:
    """Write the module's source into each cell that starts with `# %load -s name file`."""
    for cell in notebook.cells:
        if cell.cell_type == "code" and (marked := marked_source(cell.source, folder)):
            cell.source = marked


def sync_lessons(folder: Path) -> int:
    """fill_marked_cells for every lesson of a folder, and its way in from Colab."""
    for path in lessons(folder):
        notebook = nbformat.read(path, as_version=4)
        fill_marked_cells(notebook, path.parent)
        put_colab(notebook, path.stem, stored_address())
        nbformat.write(notebook, path)
    return 0


def marked_source(source: str, folder: Path) -> str | None:
    """What a marked cell must hold: its marker and the named definitions; None if not marked.

    Raises ValueError if the file has no such definition.
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
