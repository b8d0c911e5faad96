"""Is a cell's run good? Everything that `course` and `check` call a failure stands here.

`faults` says what went wrong, `unchecked` what nobody has looked at, and why.
"""

from __future__ import annotations

import base64
import io
import re

import numpy as np
from nbformat import NotebookNode
from nbval.plugin import find_comment_markers, find_metadata_tags
from PIL import Image

from vlm_utils.course.cells import WIDGET, without_progress
from vlm_utils.course.session import Run

VARIES = "picture-varies"       # the tag of a cell whose picture has another size in each run
TRACEBACK = "Traceback (most recent call last)"
# Other fonts make a figure some pixels wider, and other numbers in it too.
LEEWAY = 0.1
PIXELS, SHADES = 0.02, 64       # so large a part of a compared picture may differ by so many of 255
# What magics print where they should fail.
_PRINTED = re.compile(r"^(Couldn't find program: .*|\[Errno \d+\] .*)$", re.M)
_MAGIC = re.compile(r"^\s*%", re.M)

_IN_HTML = re.compile(r'src="data:image/(?:png|jpeg);base64,([^"]+)"')


def expects_error(cell: NotebookNode) -> bool:
    """Is the cell marked as one that raises an exception, as nbval and Jupyter understand it?"""
    marks = dict(find_metadata_tags(cell.metadata)) | dict(find_comment_markers(cell.source))
    return bool(marks.get("check_exception"))


def faults(run: Run, stored: list[NotebookNode] | None = None, compared: bool = False) -> list[str]:
    """Everything that is wrong with a run, the cause first; an empty list is a good cell.

    stored: the cell's stored outputs, or None where they are not meant for this profile. compared:
    these are the same on every machine. Of them, this looks at pictures and tracebacks only: the
    comparison of everything else is nbval's.
    """
    if run.out_of_time:
        where = run.errors[-1:] and f"; it was at: {_place(run.errors[-1])}"
        return [f"it took longer than it may: {run.out_of_time}{where or ''}"]
    if any(payload.get("source") == "ask_exit" for payload in run.reply.get("payload", [])):
        return ["it asks the kernel to end (exit or quit): no later cell can run"]
    if run.died:
        return [run.died]
    found = []
    raised = run.reply.get("status") == "error"
    if expects_error(run.cell):
        if not raised:
            found.append("it is tagged raises-exception, and raises none")
    elif raised or run.errors:
        found.append(describe_error(run.reply if raised else run.errors[0]))
    found += dict.fromkeys(run.faults)
    if not found and not raised:
        found += _printed_faults(run, stored or [])
    if VARIES in run.cell.metadata.get("tags", []):     # it shows what a newly trained model says
        stored = None
    return found + _picture_faults(run.cell.outputs, stored, compared)


def unchecked(run: Run) -> list[str]:
    """What of a run nobody has looked at, each with its reason."""
    found = list(run.notes)
    if _pictures(run.cell.outputs):
        found.append("pictures: only their number and size, and that they are not blank")
    if any(WIDGET in out.get("data", {}) for out in without_progress(run.cell.outputs)):
        found.append("widgets: shown, but nobody has clicked on them")
    return list(dict.fromkeys(found))


def describe_error(error: dict) -> str:
    """One line for an error's name and value; where memory ran out, it says so first."""
    text = " ".join(f"{error.get('ename', 'error')}: {error.get('evalue', '')}".split())
    short = any(word in text for word in ("MemoryError", "OutOfMemory", "can't allocate memory"))
    return ("out of memory: " if short else "") + text


def _place(error: dict) -> str:
    """The line of the cell or file that an interrupted cell was at."""
    text = re.sub(r"\x1b\[[\d;]*m", "", "\n".join(error.get("traceback", [])))
    arrows = re.findall(r"^-+> ?(\d+ .*)$", text, re.M)
    return " ".join(arrows[-1].split()) if arrows else error.get("ename", "?")


def _printed_faults(run: Run, stored: list[NotebookNode]) -> list[str]:
    """Failures that are only printed. What the stored output prints too, its author has seen."""
    seen = "".join(out.get("text", "") for out in stored)
    printed = "".join(run.printed.values())
    found = []
    if TRACEBACK in printed and TRACEBACK not in seen:
        after = printed.rpartition(TRACEBACK)[2].splitlines()[1:]
        last = next((line for line in after if line.strip() and line[:1] not in " \t"), "?")
        found.append(f"it prints a traceback: {last}")
    if _MAGIC.search(run.cell.source):
        found += [f"a magic failed: {text}" for text in _PRINTED.findall(printed)
                  if text not in seen]
    return found


# --- pictures ----------------------------------------------------------------------------------

def _picture_faults(shown: list, stored: list | None, compared: bool) -> list[str]:
    """A picture that cannot be read, is blank, or is not of the stored one's size."""
    found, pictures = [], _pictures(shown)
    wanted = [] if stored is None else _pictures(stored)
    if stored is not None and len(pictures) != len(wanted):
        found.append(f"it shows {len(pictures)} pictures, and {len(wanted)} are stored")
    for number, data in enumerate(pictures, start=1):
        try:
            picture = _pixels(data)
        except OSError as error:
            found.append(f"picture {number} cannot be read: {error}")
            continue
        before = _pixels(wanted[number - 1]) if number <= len(wanted) else None
        if _is_blank(picture) and (before is None or not _is_blank(before)):
            found.append(f"picture {number} is blank")
        elif before is not None:
            found += _difference(number, picture, before, compared)
    return found


def _difference(number: int, new: np.ndarray, old: np.ndarray, compared: bool) -> list[str]:
    sizes = [f"{array.shape[1]} x {array.shape[0]}" for array in (new, old)]
    ratios = np.array(new.shape[:2]) / np.array(old.shape[:2])
    if (compared and (ratios != 1).any()) or (abs(ratios - 1) > LEEWAY).any():
        return [f"picture {number} is {sizes[0]} pixels large, and {sizes[1]} is stored"]
    if compared:
        far = abs(new.astype(int) - old.astype(int)).max(axis=-1) > SHADES
        if far.mean() > PIXELS:
            return [f"picture {number} is another one than is stored: {far.mean():.0%} of its "
                    "pixels differ"]
    return []


def _pictures(outputs: list) -> list[str]:
    """The pictures of a cell, base64: of each output its PNG, else its JPEG, else those in
    its HTML, where plots.show puts them so that they keep their alternative text."""
    found = []
    for data in (out.get("data", {}) for out in outputs):
        if "image/png" in data or "image/jpeg" in data:
            found.append(data.get("image/png") or data["image/jpeg"])
        else:
            found += _IN_HTML.findall(data.get("text/html", ""))
    return found


def _pixels(data: str) -> np.ndarray:
    with Image.open(io.BytesIO(base64.b64decode(data))) as picture:
        return np.asarray(picture.convert("RGBA"))


def _is_blank(pixels: np.ndarray) -> bool:
    return bool((pixels == pixels[0, 0]).all())
