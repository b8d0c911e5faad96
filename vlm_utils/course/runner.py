"""Runs the lessons: each in a kernel of its own, timed, with an HTML page and a table at the end.

`python -m vlm_utils course` writes executed copies under build/; with --write the notebooks
themselves are replaced, which is how they are made before a commit.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, DeadKernelError

from vlm_utils.course.cells import choose, headline, strip_progress, to_html

_PEAK = "from vlm_utils.memory import peak_memory as _p; print(f'{_p():.0f}')"


@dataclass
class Result:
    """One lesson's run: seconds, peak memory in MB, its headline, and the error if it failed."""

    lesson: str
    seconds: float
    peak_memory: float
    headline: str
    error: str = ""


def check_course(folder: Path, output: Path, only: list[str] | None = None,
                 profile: str | None = None) -> int:
    """Run lessons under nbval: a table at the end, check.html and check.xml (JUnit) in output.

    Returns pytest's exit status. Notebooks stay as they are. An hour is what a cell may take:
    a kernel that dies is seen at once, and training at real size is slow.
    """
    from vlm_utils.profiles import get_profile
    output = output.resolve()
    command = [sys.executable, "-m", "pytest", "-p", "vlm_utils.course.nbval_plugin", "--nbval-lax",
               "--nbval-current-env", "--nbval-cell-timeout=3600",
               "--nbval-kernel-startup-timeout=180",
               f"--lesson-html={output / 'check.html'}", f"--junit-xml={output / 'check.xml'}"]
    environment = os.environ | {"VLM_PROFILE": get_profile(profile).name}
    return subprocess.run([*command, *map(str, choose(folder, only))], env=environment,
                          cwd=folder.parent, check=False).returncode


def run_course(folder: Path, output: Path, only: list[str] | None = None,
               write: bool = False) -> int:
    """Execute the lessons in order, print a line for each and a table; returns the failures."""
    output.mkdir(parents=True, exist_ok=True)
    chosen = choose(folder, only)
    results = []
    for number, path in enumerate(chosen, start=1):
        print(f"[{number}/{len(chosen)}] {path.stem} ...", end=" ", flush=True)
        result = run_lesson(path, output, write)
        results.append(result)
        print("FAILED" if result.error else "ok", f"{result.seconds:.0f} s", flush=True)
    width = max(len(r.lesson) for r in results)
    print(f"\n{'lesson':{width}}  seconds  peak MB  result")
    for r in results:
        print(f"{r.lesson:{width}}  {r.seconds:7.0f}  {r.peak_memory:7.0f}  "
              f"{'FAILED: ' + r.error if r.error else r.headline}")
    print(f"\n{sum(r.seconds for r in results):.0f} s in all; pages to read: {output}")
    return sum(bool(r.error) for r in results)


def run_lesson(path: Path, output: Path, write: bool = False) -> Result:
    """Execute one notebook in a fresh kernel and write it, and its HTML page, to output."""
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(notebook, timeout=1800, kernel_name="python3",
                            store_widget_state=False, extra_arguments=["--log-level=40"],
                            resources={"metadata": {"path": str(path.parent)}})
    started, error, peak = time.perf_counter(), "", 0.0
    with client.setup_kernel():
        try:
            for index, cell in enumerate(notebook.cells):
                client.execute_cell(cell, index)
        except CellExecutionError as failure:
            error = f"cell {index}: {failure.ename}: {failure.evalue}"
        except DeadKernelError:
            error = f"cell {index}: the kernel died"
        seconds = time.perf_counter() - started
        if "died" not in error:
            peak = _ask_kernel(client, _PEAK)
    strip_progress(notebook)
    notebook.metadata.pop("widgets", None)
    name = path.stem
    if not error and write:
        _clean_metadata(notebook)
        nbformat.write(notebook, path)
    nbformat.write(notebook, output / path.name)
    (output / f"{name}.html").write_text(to_html(notebook), encoding="utf-8")
    return Result(name, seconds, peak, headline(notebook), error)


def _clean_metadata(notebook) -> None:
    """Times of execution and the name of a machine's Python are no part of a lesson."""
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
    notebook.metadata = nbformat.from_dict({
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"}})


def _ask_kernel(client: NotebookClient, code: str) -> float:
    """Run one more cell, which is not part of the notebook, for the number that it prints."""
    cell = nbformat.v4.new_code_cell(code)
    client.nb.cells.append(cell)
    client.execute_cell(cell, len(client.nb.cells) - 1, store_history=False)
    client.nb.cells.pop()
    return float("".join(out.text for out in cell.outputs if out.output_type == "stream"))
