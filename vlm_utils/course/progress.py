"""Which exercises pass: read from a student's notebooks as they were saved, and run elsewhere.

`python -m vlm_utils progress` looks for each exercise's function in the code cells of its lesson,
takes along the imports and helpers that the function uses, and runs the check in a process of its
own. Nothing else of the notebook is executed, and no file is changed.
"""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import symtable
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import nbformat
from IPython.core.inputtransformer2 import TransformerManager

from vlm_utils.check.report import NOT_ATTEMPTED, NOT_YET, PASSED
from vlm_utils.course.exercises import Exercise, exercises, is_solution, parse
from vlm_utils.profiles import REPOSITORY

LIMIT = 60              # seconds for an attempt, with the start of its process
_AT_ONCE = 4            # processes
_PYTHON_MAGIC = re.compile(r"\A\s*%%(time|timeit|capture|prun)\b.*\n")


@dataclass(frozen=True)
class State:
    """How far an exercise is: a status of vlm_utils.check.report, and a sentence about it."""

    status: str
    about: str = ""

    def __str__(self) -> str:
        if self.status == NOT_YET:
            return f"{self.status}: {self.about}"
        return f"{self.status} ({self.about})" if self.about else self.status


def progress(folder: Path, limit: float = LIMIT) -> int:
    """Print a line for each exercise, and how many pass; returns 1 if there is no such folder.

    folder: the student's notebooks. limit: seconds for an attempt.
    """
    if not folder.is_dir():
        print(f"{folder} is not a folder: name the one that holds your notebooks")
        return 1
    found = exercises()
    width = max(len(exercise.stem) for exercise in found)
    passed = 0
    with ThreadPoolExecutor(min(_AT_ONCE, os.cpu_count() or 1)) as pool:
        states = pool.map(lambda exercise: state_of(exercise, folder, limit), found)
        for exercise, state in zip(found, states, strict=True):
            passed += state.status == PASSED
            print(f"{exercise.stem:{width}}  {state}", flush=True)
    print(f"\n{passed} of {len(found)} exercises pass")
    return 0


def state_of(exercise: Exercise, folder: Path, limit: float = LIMIT) -> State:
    """How far an exercise is in a folder's notebooks; the best of several attempts counts."""
    paths = sorted(folder.glob(f"{exercise.lesson}_*.ipynb"))
    if not paths:
        return State(NOT_ATTEMPTED, f"no notebook {exercise.lesson}_*.ipynb in {folder}")
    state, loaded = None, False
    for path in paths:
        try:
            cells = _code_cells(path)
        except Exception as error:      # half a file, no JSON, another format: nbformat's errors
            state = state or State(NOT_YET, f"{path.name} cannot be read "
                                            f"({type(error).__name__}): save it again")
            continue
        own = [cell.source for cell in cells if not is_solution(cell, exercise)]
        loaded = loaded or any(is_solution(cell, exercise) and defines(cell.source, exercise.name)
                               for cell in cells)
        for number in reversed([i for i, source in enumerate(own)
                                if defines(source, exercise.name)]):
            attempt = judge(exercise.name, own, number, folder, limit)
            if attempt.status == PASSED:
                return attempt
            if state is None or state.status == NOT_ATTEMPTED:
                state = attempt
    if state in (None, State(NOT_ATTEMPTED)) and loaded:
        return State(NOT_ATTEMPTED, "its solution is loaded")
    return state or State(NOT_ATTEMPTED, "no cell defines it")


def judge(name: str, cells: list[str], number: int, folder: Path, limit: float) -> State:
    """The check's verdict on the function that cell `number` defines."""
    try:
        tree = parse(as_python(cells[number]))
    except (SyntaxError, ValueError) as error:
        line = f" in line {error.lineno}" if isinstance(error, SyntaxError) else ""
        return State(NOT_YET, f"{type(error).__name__}: {getattr(error, 'msg', error)}{line}")
    if _is_stub(tree, name):
        return State(NOT_ATTEMPTED)
    return _run(name, needed(name, cells, number), folder, limit)


def defines(source: str, name: str) -> bool:
    """Does a cell define a name? Also answered for a cell that is not Python yet."""
    try:
        return any(name in _bound(node) for node in parse(as_python(source)).body)
    except (SyntaxError, ValueError):
        return bool(re.search(rf"^\s*(async\s+)?def\s+{name}\b|^{name}\s*=", source, re.M))


def as_python(source: str) -> str:
    """A cell's source with its magics and shell commands as Python calls."""
    return TransformerManager().transform_cell(_PYTHON_MAGIC.sub("", source))


def needed(name: str, cells: list[str], number: int) -> str:
    """The code that defines a function as cell `number` does: with the imports, helpers and values
    that it uses, from this cell, else from the last one above that has them, else from below."""
    trees = [_parsed(source) for source in cells]
    order = [number, *range(number - 1, -1, -1), *range(number + 1, len(cells))]
    chosen: set[tuple[int, int]] = set()
    waiting, seen = [(name, [number])], {name}
    while waiting:
        wanted, places = waiting.pop()
        place = next((i for i in places if any(wanted in _bound(node) for node in trees[i])), None)
        if place is None:
            continue        # a builtin, or a name that nothing defines: the check will say so
        for i, node in enumerate(trees[place]):
            if wanted in _bound(node) and (place, i) not in chosen:
                chosen.add((place, i))
                waiting += [(used, order) for used in _used(node) - seen]
                seen |= _used(node)
    future = [node for node in trees[number]
              if isinstance(node, ast.ImportFrom) and node.module == "__future__"]
    nodes = future + [trees[place][i] for place, i in sorted(chosen)]
    return "\n\n\n".join(map(ast.unparse, dict.fromkeys(nodes))) + "\n"


def _run(name: str, code: str, folder: Path, limit: float) -> State:
    """Run an attempt in a process of its own, in an empty folder, on one core of the CPU."""
    paths = [str(REPOSITORY), str(folder.resolve()), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(filter(None, paths)), "PYTHONDONTWRITEBYTECODE": "1",
        "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as empty:
        attempt, verdict = Path(empty, "attempt.py"), Path(empty, "verdict.json")
        attempt.write_text(code, encoding="utf-8")
        command = [sys.executable, "-m", "vlm_utils.check.attempt", str(attempt), name,
                   str(verdict)]
        try:
            done = subprocess.run(command, env=environment, cwd=empty, timeout=limit, check=False,
                                  stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                  stderr=subprocess.DEVNULL)
        except subprocess.TimeoutExpired:
            return State(NOT_YET, f"stopped after {limit:g} s: does a loop never end?")
        if not verdict.is_file():
            return State(NOT_YET, "the process that ran it ended without a verdict (exit status "
                                  f"{done.returncode})")
        found = json.loads(verdict.read_text(encoding="utf-8"))
        return State(found["status"], found["summary"])


def _code_cells(path: Path) -> list:
    return [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]


def _parsed(source: str) -> list[ast.stmt]:
    """The statements of a cell; none if it is not Python."""
    try:
        return parse(as_python(source)).body
    except (SyntaxError, ValueError):
        return []


def _bound(node: ast.stmt) -> set[str]:
    """The names that a statement of a cell defines: by import, def, class or assignment."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return {node.name}
    return set(_names_in_blocks(node))


def _names_in_blocks(node: ast.AST) -> Iterator[str]:
    for part in ast.walk(node):
        if isinstance(part, ast.alias):
            yield (part.asname or part.name).split(".")[0]
        elif isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store):
            yield part.id
        elif isinstance(part, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield part.name


def _used(node: ast.stmt) -> set[str]:
    """The names that a statement takes from around it, also inside functions and classes."""
    def names(scope, outermost: bool) -> Iterator[str]:
        for symbol in scope.get_symbols():
            if symbol.is_referenced() and (outermost or symbol.is_global()):
                yield symbol.get_name()
        for inner in scope.get_children():
            yield from names(inner, False)

    return set(names(symtable.symtable(ast.unparse(node), "<cell>", "exec"), True))


def _is_stub(tree: ast.Module, name: str) -> bool:
    """Does the function do nothing but the stub's `raise NotImplementedError`?"""
    bodies = [node.body for node in tree.body
              if isinstance(node, ast.FunctionDef) and node.name == name]
    if not bodies:
        return False
    rest = [node for node in bodies[-1] if not (
        isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))]
    return len(rest) == 1 and isinstance(rest[0], ast.Raise) and (
        "NotImplementedError" in ast.unparse(rest[0]))
