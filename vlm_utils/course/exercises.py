"""The exercises: their files, their table, and the four cells that each has in its lesson.

1. Markdown: "### Exercise 1: ...", the task, **Why:**, **Level:** and **Time:** as the table of
   solutions/README.md has them, and the hint, folded under <details>.
2. Code, tagged "exercise": the stub, which the student fills in.
3. Code, tagged "nbval-check-output": the check.
4. Code, tagged "solution": loads the solution below the attempt, which stays as it is.
"""

from __future__ import annotations

import ast
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from vlm_utils.profiles import REPOSITORY

SOLUTIONS = REPOSITORY / "solutions"
STUB, CHECK, SOLUTION = "exercise", "nbval-check-output", "solution"     # tags of cells
LEVELS = ("easy", "medium", "hard")
MINUTES = {5: "five", 10: "ten", 15: "fifteen", 20: "twenty", 25: "twenty-five", 30: "thirty"}
LOADS = re.compile(r"^\s*#?\s*%load \.\./solutions/(\w+)\.py\s*$", re.M)
_ROW = re.compile(r"^\| \[(\w+)\]\(\1\.py\) \| ([^|]+) \| (\w+) \| (\d+) \| ([^|]+) \|$", re.M)

# CPython 3.11 counts the depth of a tree for all threads together: two that parse at once raise
# "SystemError: AST constructor recursion depth mismatch" (python/cpython issue 106905).
_PARSER = threading.Lock()


@dataclass(frozen=True)
class Exercise:
    """One exercise. lesson: "01". number: within its lesson, from 1. name: of the function."""

    lesson: str
    number: int
    name: str
    solution: Path

    @property
    def stem(self) -> str:
        return self.solution.stem

    @property
    def stub(self) -> str:
        """The source of its second cell: the solution as far as its docstring goes."""
        lines = self.solution.read_text(encoding="utf-8").split("\n")
        node = next(node for node in parse("\n".join(lines)).body
                    if isinstance(node, ast.FunctionDef) and node.name == self.name)
        imports = [line for line in lines[:node.lineno - 1] if line]
        head = lines[node.lineno - 1:node.body[0].end_lineno]
        return "\n".join([*imports, *([""] if imports else []), *head,
                          "    raise NotImplementedError"])

    @property
    def hint(self) -> str:
        """Two to four sentences of Markdown that point the way."""
        path = self.solution.parent / "hints" / f"{self.stem}.md"
        return path.read_text(encoding="utf-8").strip()

    @property
    def loading_cell(self) -> str:
        """The source of its last cell."""
        return ("# To load a solution, remove the # before %load, then run this cell twice.\n"
                f"# %load ../solutions/{self.stem}.py")


def exercises(folder: Path = SOLUTIONS) -> list[Exercise]:
    """Every exercise, in the order of the lessons: solutions/01_1_interleave.py and so on.

    Raises FileNotFoundError if the folder has none.
    """
    found = []
    for path in sorted(folder.glob("[0-9][0-9]_[0-9]_*.py")):
        lesson, number, name = path.stem.split("_", 2)
        found.append(Exercise(lesson, int(number), name, path))
    if not found:
        raise FileNotFoundError(f"no exercise (01_1_name.py) in {folder}: run this command from a "
                                "clone of the repository")
    return found


def table(folder: Path = SOLUTIONS) -> dict[str, tuple[str, int]]:
    """The level and the minutes of each exercise by its file's name, from README.md."""
    text = (folder / "README.md").read_text(encoding="utf-8")
    return {stem: (level, int(minutes)) for stem, _, level, minutes, _ in _ROW.findall(text)}


def is_solution(cell, exercise: Exercise) -> bool:
    """Is a code cell there to load the exercise's solution, or has it loaded it?

    It is if it is tagged "solution", or if its %load stands alone or over the solution's own text.
    """
    if SOLUTION in _tags(cell):
        return True
    text = exercise.solution.read_text(encoding="utf-8")
    return bool(LOADS.search(cell.source)) and (
        _code(LOADS.sub("", cell.source)) in ("", _code(text)))


def faults(notebook, lesson: str) -> Iterator[str]:
    """What is wrong with the cells of a lesson's exercises, in words."""
    levels = table()
    for exercise in exercises():
        if exercise.lesson != lesson:
            continue
        places = [i for i, cell in enumerate(notebook.cells) if STUB in _tags(cell)
                  and re.search(rf"^def {exercise.name}\(", cell.source, re.M)]
        if len(places) != 1:
            yield f"{exercise.stem}: {len(places)} cells tagged {STUB!r} define it, not one"
            continue
        around = notebook.cells[max(0, places[0] - 1):places[0] + 3]
        kinds = [cell.cell_type for cell in around]
        if kinds != ["markdown", "code", "code", "code"]:
            yield f"{exercise.stem}: its cells are {kinds}, not text, stub, check and solution"
            continue
        for fault in _faults_of_cells(exercise, levels[exercise.stem], *around):
            yield f"{exercise.stem}: {fault}"


def _faults_of_cells(exercise: Exercise, level_and_minutes: tuple, text, stub, checked,
                     solution) -> Iterator[str]:
    level, minutes = level_and_minutes
    if not re.match(rf"### Exercise {exercise.number}: ", text.source):
        yield f"its text does not start with '### Exercise {exercise.number}: '"
    for wanted in ("**Why:**", f"**Level:** {level}.",
                   f"**Time:** about {MINUTES[minutes]} minutes."):
        if wanted not in text.source:
            yield f"its text lacks {wanted!r}"
    folded = re.search(r"<details>\n<summary>Hint</summary>\n\n(.*?)\n\n</details>", text.source,
                       re.S)
    if not folded or folded[1].strip() != exercise.hint:
        yield f"its text does not show the hint of hints/{exercise.stem}.md under <details>"
    if stub.source != exercise.stub:
        yield "its stub is not what its solution defines, up to the docstring"
    call = f"check.{exercise.name}({exercise.name})"
    if call not in checked.source or CHECK not in _tags(checked):
        yield f"the cell under its stub is not {call}, tagged {CHECK!r}"
    if solution.source != exercise.loading_cell or SOLUTION not in _tags(solution):
        yield f"its last cell is not the one that loads its solution, tagged {SOLUTION!r}"


def _tags(cell) -> list[str]:
    return cell.metadata.get("tags", [])


def _code(text: str) -> str:
    """Source without comments and layout; as it is if it is not Python."""
    try:
        return ast.unparse(parse(text))
    except SyntaxError:
        return text.strip()


def parse(source: str) -> ast.Module:
    """ast.parse, for one thread at a time."""
    with _PARSER:
        return ast.parse(source)
