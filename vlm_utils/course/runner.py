"""Runs the lessons: each in a kernel of its own, timed, with a table and a site at the end.

`python -m vlm_utils course` writes executed copies under build/; with --write the notebooks
themselves are replaced, which is how they are made before a commit.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import nbformat

from vlm_utils.course import judge
from vlm_utils.course.cells import choose, headline, merge_streams, strip_progress, to_html
from vlm_utils.course.conditions import why_not_store
from vlm_utils.course.kernel import WatchedKernel
from vlm_utils.course.limits import Limit
from vlm_utils.course.outputs import claim
from vlm_utils.course.report import CellRun, LessonRun, measured_html, table, unchecked_lines
from vlm_utils.course.session import Run, Session
from vlm_utils.course.site import build_site, why_not
from vlm_utils.profiles import get_profile


def check_course(folder: Path, output: Path, only: list[str] | None = None,
                 profile: str | None = None) -> int:
    """Run lessons under nbval: a table at the end, check.html and check.xml (JUnit) in output.

    Returns pytest's exit status, or 1 if one of these files is the user's (see `claim`). Notebooks
    stay as they are.
    """
    output = output.resolve()
    try:
        claim(output, ["check.html", "check.xml"])
    except FileExistsError as error:
        print(error)
        return 1
    command = [sys.executable, "-m", "pytest", "-p", "vlm_utils.course.nbval_plugin", "--nbval-lax",
               "--nbval-current-env", f"--lesson-html={output / 'check.html'}",
               f"--junit-xml={output / 'check.xml'}"]
    environment = os.environ | {"VLM_PROFILE": get_profile(profile).name}
    return subprocess.run([*command, *map(str, choose(folder, only))], env=environment,
                          cwd=folder.parent, check=False).returncode


def run_course(folder: Path, output: Path, only: list[str] | None = None,
               write: bool = False) -> int:
    """Execute the lessons in order, print a line for each and a table; returns the failures.

    It ends with the site of this run or, if none can be built, with an HTML page of each lesson.
    What is the user's in the output folder stays: see `claim`. With write, nothing runs where
    outputs would be those of one user's profile, subset or images.
    """
    if write and (reason := why_not_store()):
        print(reason)
        return 1
    output.mkdir(parents=True, exist_ok=True)
    chosen = choose(folder, only)
    try:
        claim(output, ["site", "index.html", *(path.stem + suffix for path in chosen
                                               for suffix in (".ipynb", ".html"))])
    except FileExistsError as error:
        print(error)
        return 1
    results: list[LessonRun] = []
    no_site = why_not(folder)
    for number, path in enumerate(chosen, start=1):
        print(f"[{number}/{len(chosen)}] {path.stem} ...", end=" ", flush=True)
        result = run_lesson(path, output, write, page=bool(no_site))
        results.append(result)
        print("FAILED" if result.fault() else "ok", f"{result.seconds():.0f} s", flush=True)
    print("\n" + "\n".join([*table(results), *unchecked_lines(results)]))
    print(f"\n{sum(r.seconds() for r in results):.0f} s in all;", end=" ")
    failed = sum(bool(result.fault()) for result in results)
    if no_site:
        print(f"pages to read: {output}\n(one site of all of them needs more: {no_site})")
        return failed
    return failed + _build_site(folder, output, chosen, results)


def _build_site(folder: Path, output: Path, chosen: list[Path], results: list[LessonRun]) -> int:
    """Build the site of a run, or say why that failed and write plain pages; returns failures."""
    try:
        build_site(folder, output / "site", {path.stem: output / path.name for path in chosen},
                   measured_html(results))
    except Exception as error:      # whatever it is, what the lessons have shown must be readable
        for path in chosen:
            if (output / path.name).is_file():
                _write_page(nbformat.read(output / path.name, as_version=4), path.stem, output)
        print(f"pages to read: {output}\nthe site could not be built: "
              f"{type(error).__name__}: {error}")
        return 1
    print(f"to read: {output / 'index.html'}")
    return 0


def _write_page(notebook, name: str, output: Path) -> None:
    (output / f"{name}.html").write_text(to_html(notebook, name), encoding="utf-8")


def run_lesson(path: Path, output: Path, write: bool = False, limit: Limit | None = None,
               page: bool = True) -> LessonRun:
    """Execute one notebook in a fresh kernel and write it to output; page: as HTML too.

    limit: of a cell; by default the profile's. Whatever goes wrong is in the result, so that the
    next lesson can run: a lesson that cannot be read, a kernel that does not start, a full disk.
    """
    lesson = LessonRun(path.stem)
    earlier = output / path.name
    try:
        if earlier.is_file() and not earlier.samefile(path):
            earlier.unlink()            # of another run: not what this one shows
        notebook = nbformat.read(path, as_version=4)
        notebook = _execute(notebook, lesson, path.parent, limit or Limit.of(get_profile().name))
        strip_progress(notebook)
        merge_streams(notebook)
        notebook.metadata.pop("widgets", None)
        lesson.headline = headline(notebook)
        if not lesson.fault() and write:
            _clean_metadata(notebook)
            nbformat.write(notebook, path)
        nbformat.write(notebook, output / path.name)
        if page:
            _write_page(notebook, path.stem, output)
    except Exception as error:
        lesson.faults.append(f"{type(error).__name__}: {error}")
    return lesson


def _execute(notebook, lesson: LessonRun, folder: Path, limit: Limit):
    """Run a notebook's cells as far as they are good, into the lesson; returns the new notebook."""
    kernel = WatchedKernel(str(folder), limit)
    try:
        session = Session(notebook, kernel, limit)
        code = [cell for cell in notebook.cells if cell.cell_type == "code"]
        lesson.cells = [CellRun(number, cell.source.strip().split("\n")[0][:76], "not run")
                        for number, cell in enumerate(code, start=1)]
        for row in lesson.cells:
            _fill(row, session.run(row.number))
            _blame(lesson, session)
            if lesson.fault():
                break
        else:
            session.finish()
            _blame(lesson, session)
        lesson.limit, lesson.notes = str(session.limit), session.notes
        return session.notebook
    finally:
        kernel.stop()


def _fill(row: CellRun, run: Run) -> None:
    row.seconds, row.memory, row.gpu = run.seconds, run.memory, run.gpu
    row.unchecked = judge.unchecked(run)
    found = judge.faults(run)
    row.result, row.message = ("failed", "\n".join(found)) if found else ("ok", "")


def _blame(lesson: LessonRun, session: Session) -> None:
    """Cells that have turned bad after they had ended."""
    for run in session.judge_again():
        if found := judge.faults(run):
            lesson.blame(run.number, "after it had ended: " + "\n".join(found))
        lesson.cells[run.number - 1].unchecked = judge.unchecked(run)


def _clean_metadata(notebook) -> None:
    """Times of execution and the name of a machine's Python are no part of a lesson."""
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
    notebook.metadata = nbformat.from_dict({
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"}})
