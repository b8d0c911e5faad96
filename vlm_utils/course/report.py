"""The table of `make check` and `make course`: what each lesson took, whether it passed, and what
nobody has looked at; on screen and as HTML.

For `make check` it is fed by the reports of `nbval_plugin`, so that it also holds under
pytest-xdist.
"""

from __future__ import annotations

import html
import textwrap
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from vlm_utils.course.conditions import check_note

COLUMNS = ("notebook", "cells", "seconds", "peak MB", "GPU MB", "slowest cell", "limit of a cell",
           "result")
NUMBERS = range(1, 5)       # the columns that hold one
WIDTH = 100
_PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>Lessons, checked</title><style>
body {{ font-family: sans-serif; margin: 2em; max-width: 70em }}
table {{ border-collapse: collapse; margin: 1em 0 }}
th, td {{ padding: 0.2em 0.8em; text-align: left; border-bottom: 1px solid #ccc }}
td.number {{ text-align: right }} .failed {{ background: #fde0dd }} .notrun {{ color: #666 }}
</style></head><body>
<h1>Lessons, checked</h1>
<p>{note}</p>
{body}
</body></html>
"""


@dataclass
class CellRun:
    """One cell: seconds, peak memory of the kernel's process and of the GPU in MB, and how it went.

    result: "ok", "failed", "not run" (an earlier cell failed) or "skipped". unchecked: what of it
    nobody has looked at, and why. compared: its output was compared with the stored one.
    """

    number: int
    source: str
    result: str
    seconds: float = 0.0
    memory: float = 0.0
    gpu: float = 0.0
    message: str = ""
    unchecked: list[str] = field(default_factory=list)
    compared: bool = False


@dataclass
class LessonRun:
    """One notebook and its cells in order. faults and notes (as `unchecked`) are of no one cell."""

    name: str
    cells: list[CellRun] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    limit: str = "-"
    headline: str = ""

    def blame(self, number: int, message: str) -> None:
        """A cell failed, though it had passed; number 0: the lesson as a whole."""
        found = [cell for cell in self.cells if cell.number == number]
        for cell in found:
            cell.result, cell.message = "failed", message
        if not found:
            self.faults.append(message)

    def fault(self) -> str:
        """ "", or which cell failed and how, in one line."""
        texts = [f"cell {cell.number} failed: {cell.message}" for cell in self.cells
                 if cell.result == "failed"] + self.faults
        return textwrap.shorten(texts[0].strip().split("\n")[0], 110) if texts else ""

    def result(self) -> str:
        """What the table says: the fault, or what the lesson itself has to say, or "ok"."""
        return self.fault() or self.headline or "ok"

    def seconds(self) -> float:
        return sum(cell.seconds for cell in self.cells)

    def row(self) -> tuple[str, ...]:
        """What the table shows of it, in the order of COLUMNS."""
        slowest = max(self.cells, key=lambda cell: cell.seconds, default=CellRun(0, "", ""))
        gpu = max((cell.gpu for cell in self.cells), default=0)
        memory = max((cell.memory for cell in self.cells), default=0)
        return (self.name, str(len(self.cells)), f"{self.seconds():.1f}", f"{memory:.0f}",
                f"{gpu:.0f}" if gpu else "-", f"cell {slowest.number}: {slowest.seconds:.1f} s",
                self.limit, self.result())


class Collector:
    """Gathers the reports of cells while pytest runs, and shows the table when it has ended."""

    def __init__(self, config):
        self.config = config
        self.lessons: dict[str, LessonRun] = {}

    def pytest_runtest_logreport(self, report) -> None:
        known = dict(report.user_properties)
        ended = report.when == "call" or (report.when == "setup" and not report.passed)
        if not ended or not {"cell", "end"} & known.keys():
            return
        name = report.nodeid.split("::")[0]
        lesson = self.lessons.setdefault(name, LessonRun(Path(name).stem))
        if "cell" in known:
            lesson.cells.append(_cell_run(report, known))
            lesson.limit = known.get("limit", lesson.limit)
        else:
            lesson.notes += known.get("unchecked", [])
        for number, message in known.get("late", []):
            lesson.blame(number, message)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_sessionfinish(self, session):
        """With a page, after everything that pytest itself writes: it is what instructors read."""
        done = yield
        terminal = self.config.pluginmanager.get_plugin("terminalreporter")
        if not (path := self.config.option.lesson_html) or not self.write_table(terminal):
            return done
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_text(to_html(self.in_order(), self.note()), encoding="utf-8")
        terminal.write_line(f"each cell: {path}")
        return done

    def pytest_terminal_summary(self, terminalreporter) -> None:
        """Without one, as among the unit tests: pytest's closing line stays the last."""
        if not self.config.option.lesson_html:
            self.write_table(terminalreporter)

    def write_table(self, terminal) -> bool:
        """Write a line for each lesson, if lessons ran and there is a terminal to write to."""
        if not self.lessons or terminal is None or hasattr(self.config, "workerinput"):
            return False
        terminal.write_line("")
        for line in [*table(self.in_order()), *unchecked_lines(self.in_order()), self.note()]:
            terminal.write_line(line)
        return True

    def in_order(self) -> list[LessonRun]:
        return [self.lessons[name] for name in sorted(self.lessons)]

    def note(self) -> str:
        return check_note(self.config.option.lesson_network)


def _cell_run(report, known: dict) -> CellRun:
    result, message = "ok", known.get("failure", "")
    if report.failed and (message or not known.get("late")):
        result = "failed"
    elif report.skipped:
        message = report.longrepr[-1] if isinstance(report.longrepr, tuple) else ""
        message = message.removeprefix("Skipped: ")
        result = "not run" if message.startswith("not run") else "skipped"
    unchecked = known.get("unchecked", [])
    return CellRun(
        known["cell"], known["source"], result, known.get("seconds", 0.0),
        known.get("peak_mb", 0.0), known.get("gpu_mb", 0.0), message,
        [*unchecked, f"all of it: {message}"] if result == "skipped" else unchecked,
        known.get("compared", False))


def table(lessons: list[LessonRun]) -> list[str]:
    """Lines for a terminal; columns as wide as needed, numbers to the right."""
    rows = [COLUMNS, *(lesson.row() for lesson in lessons)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(COLUMNS) - 1)]
    lines = []
    for row in rows:
        cells = [text.rjust(width) if i in NUMBERS else text.ljust(width)
                 for i, (text, width) in enumerate(zip(row, widths, strict=False))]
        lines.append("  ".join([*cells, row[-1]]))
    return lines


def unchecked_lines(lessons: list[LessonRun]) -> list[str]:
    """Lines for a terminal that name what nobody has looked at: each reason, and the cells."""
    first, *others = _unchecked(lessons)
    return [first, *(line for text in others for line in textwrap.wrap(
        text, WIDTH, subsequent_indent="    ", break_long_words=False))]


def _unchecked(lessons: list[LessonRun]) -> list[str]:
    found: dict[str, list[str]] = {}
    for lesson in lessons:
        for note in lesson.notes:
            found.setdefault(note, []).append(lesson.name)
        for reason in dict.fromkeys(text for cell in lesson.cells for text in cell.unchecked):
            numbers = [str(cell.number) for cell in lesson.cells if reason in cell.unchecked]
            found.setdefault(reason, []).append(f"{lesson.name} {', '.join(numbers)}")
    ran = [cell for lesson in lessons for cell in lesson.cells if cell.result in ("ok", "failed")]
    plain = len(ran) - sum(cell.compared for cell in ran)
    lines = [f"not checked: what {plain} of {len(ran)} cells print, against what is stored"]
    for reason, places in found.items():
        lines.append(f"not checked: {reason} ({'; '.join(places)})")
    return lines


def to_html(lessons: list[LessonRun], note: str = "") -> str:
    """A page of HTML: `measured_html`."""
    return _PAGE.format(note=html.escape(note), body=measured_html(lessons))


def measured_html(lessons: list[LessonRun]) -> str:
    """The table, and under it each lesson's cells with their seconds and peak memory."""
    parts = [_html_table(COLUMNS, [(lesson.row(), bool(lesson.fault())) for lesson in lessons])]
    parts += [f"<p>{html.escape(line)}</p>" for line in _unchecked(lessons)]
    for lesson in lessons:
        rows = [((str(c.number), c.source, f"{c.seconds:.2f}", f"{c.memory:.0f}",
                  f"{c.gpu:.0f}" if c.gpu else "-",
                  c.result + (f": {c.message}" if c.result == "failed" else ""),
                  "; ".join(c.unchecked)), c.result == "failed") for c in lesson.cells]
        parts.append(f"<h2>{html.escape(lesson.name)}</h2>")
        parts.append(_html_table(("cell", "begins with", "seconds", "peak MB", "GPU MB", "result",
                                  "not checked"), rows))
    return "\n".join(parts)


def _html_table(head: tuple[str, ...], rows: list[tuple[tuple[str, ...], bool]]) -> str:
    lines = ["<table>", "<tr>" + "".join(f"<th>{text}</th>" for text in head) + "</tr>"]
    for row, failed in rows:
        cells = "".join(
            f'<td{" class=number" if _is_number(text) else ""}>{html.escape(text)}</td>'
            for text in row)
        lines.append(f'<tr{" class=failed" if failed else ""}>{cells}</tr>')
    return "\n".join([*lines, "</table>"])


def _is_number(text: str) -> bool:
    return text.replace(".", "", 1).isdigit()
