"""The table of `make check`: what each lesson took and whether it passed, on screen and as HTML.

Fed by the reports of `nbval_plugin`, so that it also holds under pytest-xdist.
"""

from __future__ import annotations

import html
import textwrap
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from vlm_utils.course.conditions import network_note

COLUMNS = ("notebook", "cells", "seconds", "peak MB", "GPU MB", "slowest cell", "result")
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

    result: "ok", "failed", "not run" (an earlier cell failed) or "skipped".
    """

    number: int
    source: str
    result: str
    seconds: float = 0.0
    memory: float = 0.0
    gpu: float = 0.0
    message: str = ""


@dataclass
class LessonRun:
    """One notebook and its cells in order."""

    name: str
    cells: list[CellRun] = field(default_factory=list)

    def result(self) -> str:
        """ "ok", or which cell failed and how."""
        failed = [cell for cell in self.cells if cell.result == "failed"]
        if failed:
            first = failed[0].message.strip().split("\n")[0]
            return textwrap.shorten(f"cell {failed[0].number} failed: {first}", 110)
        return "ok"

    def row(self) -> tuple[str, ...]:
        """What the table shows of it, in the order of COLUMNS."""
        slowest = max(self.cells, key=lambda cell: cell.seconds)
        gpu = max(cell.gpu for cell in self.cells)
        return (self.name, str(len(self.cells)), f"{sum(c.seconds for c in self.cells):.1f}",
                f"{max(c.memory for c in self.cells):.0f}", f"{gpu:.0f}" if gpu else "-",
                f"cell {slowest.number}: {slowest.seconds:.1f} s", self.result())


class Collector:
    """Gathers the reports of cells while pytest runs, and shows the table when it has ended."""

    def __init__(self, config):
        self.config = config
        self.lessons: dict[str, LessonRun] = {}

    def pytest_runtest_logreport(self, report) -> None:
        known = dict(report.user_properties)
        ended = report.when == "call" or (report.when == "setup" and not report.passed)
        if "cell" not in known or not ended:
            return
        name = report.nodeid.split("::")[0]
        lesson = self.lessons.setdefault(name, LessonRun(Path(name).stem))
        result, message = "ok", known.get("failure", "")
        if report.failed:
            result = "failed"
        elif report.skipped:
            message = report.longrepr[-1] if isinstance(report.longrepr, tuple) else ""
            message = message.removeprefix("Skipped: ")
            result = "not run" if message.startswith("not run") else "skipped"
        lesson.cells.append(CellRun(
            known["cell"], known["source"], result, known.get("seconds", 0.0),
            known.get("peak_mb", 0.0), known.get("gpu_mb", 0.0), message))

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_sessionfinish(self, session):
        """With a page, after everything that pytest itself writes: it is what instructors read."""
        done = yield
        terminal = self.config.pluginmanager.get_plugin("terminalreporter")
        if not (path := self.config.option.lesson_html) or not self.write_table(terminal):
            return done
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        lessons = [self.lessons[name] for name in sorted(self.lessons)]
        Path(path).write_text(to_html(lessons, network_note(self.config)), encoding="utf-8")
        terminal.write_line(f"each cell: {path}")
        return done

    def pytest_terminal_summary(self, terminalreporter) -> None:
        """Without one, as among the unit tests: pytest's closing line stays the last."""
        if not self.config.option.lesson_html:
            self.write_table(terminalreporter)

    def write_table(self, terminal) -> bool:
        """Write a line for each lesson, where lessons ran and there is a terminal to write to."""
        if not self.lessons or terminal is None or hasattr(self.config, "workerinput"):
            return False
        terminal.write_line("")
        for line in table([self.lessons[name] for name in sorted(self.lessons)]):
            terminal.write_line(line)
        terminal.write_line(network_note(self.config))
        return True


def table(lessons: list[LessonRun]) -> list[str]:
    """Lines for a terminal; columns as wide as needed, numbers to the right."""
    rows = [COLUMNS, *(lesson.row() for lesson in lessons)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(COLUMNS) - 1)]
    lines = []
    for row in rows:
        cells = [text.rjust(width) if 0 < i < 5 else text.ljust(width)
                 for i, (text, width) in enumerate(zip(row, widths, strict=False))]
        lines.append("  ".join([*cells, row[-1]]))
    return lines


def to_html(lessons: list[LessonRun], note: str = "") -> str:
    """The table, and under it each lesson's cells with their seconds and peak memory."""
    parts = [_html_table(COLUMNS, [(lesson.row(), lesson.result() != "ok") for lesson in lessons])]
    for lesson in lessons:
        rows = [((str(c.number), c.source, f"{c.seconds:.2f}", f"{c.memory:.0f}",
                  f"{c.gpu:.0f}" if c.gpu else "-",
                  c.result + (f": {c.message}" if c.result == "failed" else "")),
                 c.result == "failed") for c in lesson.cells]
        parts.append(f"<h2>{html.escape(lesson.name)}</h2>")
        parts.append(_html_table(("cell", "begins with", "seconds", "peak MB", "GPU MB", "result"),
                                 rows))
    return _PAGE.format(note=html.escape(note), body="\n".join(parts))


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
