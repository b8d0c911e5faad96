"""Exercises: every check passes its solution and names the mistakes that students make."""

import ast
import inspect
import re
from collections import Counter
from pathlib import Path

import nbformat
import pytest
from IPython.core.interactiveshell import InteractiveShell

from vlm_utils import check
from vlm_utils.check.differences import same
from vlm_utils.check.report import NOT_YET
from vlm_utils.course.exercises import (
    CHECK,
    LEVELS,
    MINUTES,
    SOLUTION,
    STUB,
    exercises,
    faults,
    table,
)
from vlm_utils.profiles import REPOSITORY

SOLUTIONS = {path.stem.split("_", 2)[2]: path
             for path in sorted((REPOSITORY / "solutions").glob("*.py"))}
NOTEBOOKS = {path.name[:2]: path for path in sorted((REPOSITORY / "notebooks").glob("*_*.ipynb"))}
# A mistake is a file, tests/mistakes/01_1_interleave/nested.py: a wrong solution as a student
# writes it, under a comment with the words that must answer it.
MISTAKES = sorted((REPOSITORY / "tests" / "mistakes").glob("*/*.py"))
SAYS = "# says: "
FEWEST = 3      # mistakes of an exercise


def source(name: str) -> str:
    return SOLUTIONS[name].read_text(encoding="utf-8")


def function(name: str, text: str, filename: str = "<cell>"):
    """The exercise's function, defined by a text as a notebook's cell would define it."""
    namespace = {}
    exec(compile(text, filename, "exec"), namespace)
    return namespace[name]


def exercise_of(mistake: Path) -> str:
    """01_1_interleave/nested.py is a mistake in interleave."""
    return mistake.parent.name.split("_", 2)[2]


def verdict(capsys, name: str, student) -> str:
    capsys.readouterr()
    assert getattr(check, name)(student) is None
    return capsys.readouterr().out


# --- checks ------------------------------------------------------------------------------------

@pytest.mark.parametrize("name", SOLUTIONS)
def test_a_solution_passes_its_check(name, capsys):
    student = function(name, source(name))
    for _ in range(2):  # a check that has passed passes again
        assert verdict(capsys, name, student).split("\n")[0] == "passed"


@pytest.mark.parametrize("path", MISTAKES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_a_mistake_is_answered_by_its_words(path):
    text, name = path.read_text(encoding="utf-8"), exercise_of(path)
    first = text.split("\n")[0]
    assert first.startswith(SAYS), f"the first line must be: {SAYS}words of the check's answer"
    words = first.removeprefix(SAYS)
    assert len(words) > 10, "so few words would fit any answer"
    student = function(name, text, str(path))
    assert signature(text, name) == signature(source(name), name)
    judged = getattr(check, name).judge(student)
    assert judged.status == NOT_YET
    assert judged.text.startswith(f"not yet: {judged.summary[:40]}")
    assert words in " ".join(judged.text.split("\ninput\n")[0].split()), judged.text


def test_each_check_has_a_solution_and_at_least_three_mistakes():
    assert set(check.__all__) == set(SOLUTIONS)
    found = Counter(path.parent.name for path in MISTAKES)
    assert {path.stem for path in SOLUTIONS.values()} == set(found)
    assert {name for name, count in found.items() if count < FEWEST} == set()
    assert len({path.read_text(encoding="utf-8") for path in MISTAKES}) == len(MISTAKES)


@pytest.mark.parametrize("name", SOLUTIONS)
def test_no_result_is_explained_by_two_mistakes(name, monkeypatch):
    """Else a student may read of a mistake that is not theirs."""
    seen = []

    def compare(result, expected, inputs, mistakes=()):
        seen.append(mistakes)
        for i, (one, message) in enumerate(mistakes):
            for other, text in mistakes[:i]:
                distinct = not same(one, other) or same(one, expected)
                assert text == message or distinct, (message, text)

    module = inspect.getmodule(inspect.unwrap(getattr(check, name)))
    monkeypatch.setattr(module, "expect", compare)
    inspect.unwrap(getattr(check, name))(function(name, source(name)))
    assert seen or name in ("make_selection", "measure_tensors", "forget_error",
                             "shards_of_process")


@pytest.mark.parametrize("name", SOLUTIONS)
def test_a_check_survives_whatever_a_function_does(name, capsys):
    """Errors, wrong arguments and nonsense are told, never raised."""
    class Odd:
        def __eq__(self, other):
            raise ValueError("no comparing")

        __hash__ = None

        def __repr__(self):
            raise ValueError("no printing")

    for nonsense in ("text", 7, -1.5, [], {}, (1, 2), object(), Odd(), [Odd()], float("nan"),
                     {"input_ids": 1, "pixel_values": 2, "attention_mask": 3, "labels": 4}):
        said = verdict(capsys, name, lambda *arguments, it=nonsense: it)
        assert said.startswith("not yet: "), (nonsense, said)
    assert "TypeError" in verdict(capsys, name, lambda: None)
    assert "TypeError" in verdict(capsys, name, None)
    assert "SystemExit" in verdict(capsys, name, lambda *arguments: exit())
    assert "not yet" in verdict(capsys, name, lambda *arguments: None)


def test_an_exception_is_told_with_type_message_and_line(capsys):
    def merge_images(words, images, ids, token):
        return words[ids == token].reshape(7, 7)
    said = verdict(capsys, "merge_images", merge_images)
    line = inspect.getsourcelines(merge_images)[1] + 1
    assert "RuntimeError: shape '[7, 7]' is invalid" in said
    assert f"in line {line}: return words[ids == token].reshape(7, 7)" in said
    assert "input_ids = tensor([[5, 9, 9, 6, 7, 0],\n" in said


def test_a_wrong_result_is_shown_with_input_and_expectation(capsys):
    said = verdict(capsys, "wasted_tokens", lambda lengths, batch_size: 5)
    assert "lengths = [3, 8, 4, 4, 10, 2, 7, 5]" in said and "batch_size = 3" in said
    assert "result\n    5\nexpected\n    25\n" in said


def test_pytorchs_own_not_implemented_error_is_no_stub(capsys):
    def merge_images(words, images, ids, token):
        return words.to("meta").cpu()
    said = verdict(capsys, "merge_images", merge_images)
    assert said.startswith("not yet: your function raised NotImplementedError: Cannot copy")


# --- files -------------------------------------------------------------------------------------

def signature(text: str, name: str) -> str:
    """Arguments and annotations of a function, as they are written."""
    node = definition(text, name)
    return f"{ast.unparse(node.args)} -> {ast.unparse(node.returns)}"


def definition(text: str, name: str) -> ast.FunctionDef:
    return next(n for n in ast.parse(text).body if getattr(n, "name", "") == name)


@pytest.mark.parametrize("exercise", exercises(), ids=lambda exercise: exercise.stem)
def test_a_hint_points_the_way_and_gives_no_code(exercise):
    hint = " ".join(exercise.hint.split())
    assert 2 <= len(re.findall(r"[.?](?= |$)", hint)) <= 4
    assert "```" not in hint and "<details" not in hint
    for node in ast.walk(definition(source(exercise.name), exercise.name)):
        if isinstance(node, ast.stmt | ast.Call | ast.BinOp | ast.Compare):
            assert ast.unparse(node) not in hint


def test_no_hint_belongs_to_no_exercise():
    found = {path.stem for path in (REPOSITORY / "solutions" / "hints").glob("*.md")}
    assert found == {exercise.stem for exercise in exercises()}


def test_the_table_has_level_and_minutes_of_every_exercise():
    assert list(table()) == [exercise.stem for exercise in exercises()]
    assert all(level in LEVELS and minutes in MINUTES for level, minutes in table().values())
    assert {level for level, _ in table().values()} == set(LEVELS)


def test_a_solution_fits_into_a_cell():
    for exercise in exercises():
        lines = exercise.loading_cell.splitlines() + source(exercise.name).splitlines()
        assert len(lines) <= 26 and max(map(len, lines)) <= 76, exercise.stem


# --- notebooks ---------------------------------------------------------------------------------

def found_in_lessons() -> list[tuple]:
    """(exercise, [markdown, stub, check cell]) of every exercise, in the lessons' order."""
    found = []
    for lesson, path in NOTEBOOKS.items():
        cells = nbformat.read(path, as_version=4).cells
        for i, cell in enumerate(cells):
            found += [(exercise, cells[i - 1:i + 2]) for exercise in exercises()
                      if exercise.lesson == lesson and is_stub(cell, exercise)]
    return found


def is_stub(cell, exercise) -> bool:
    return STUB in cell.metadata.get("tags", []) and f"def {exercise.name}(" in cell.source


def lesson_with_exercises(lesson: str):
    """A notebook that holds the exercises of a lesson and nothing else, as they should be."""
    cells = []
    for exercise in exercises():
        if exercise.lesson == lesson:
            level, minutes = table()[exercise.stem]
            cells += [
                nbformat.v4.new_markdown_cell(
                    f"### Exercise {exercise.number}: a title\n\nThe task.\n\n"
                    f"**Why:** a reason.\n\n"
                    f"**Level:** {level}. **Time:** about {MINUTES[minutes]} minutes.\n\n"
                    f"<details>\n<summary>Hint</summary>\n\n{exercise.hint}\n\n</details>"),
                nbformat.v4.new_code_cell(exercise.stub, metadata={"tags": [STUB]}),
                nbformat.v4.new_code_cell(
                    f"from vlm_utils import check\n\ncheck.{exercise.name}({exercise.name})",
                    metadata={"tags": [CHECK]}),
                nbformat.v4.new_code_cell(exercise.loading_cell, metadata={"tags": [SOLUTION]})]
    return nbformat.v4.new_notebook(cells=cells)


def test_every_check_has_one_exercise_and_every_lesson_two_to_four():
    assert sorted(e.name for e, _ in found_in_lessons()) == sorted(check.__all__)
    for lesson in NOTEBOOKS:
        numbers = [e.number for e, _ in found_in_lessons() if e.lesson == lesson]
        assert numbers == list(range(1, len(numbers) + 1)) and 2 <= len(numbers) <= 4


def test_stubs_ask_for_what_their_solutions_define():
    for exercise, (_, stub, _) in found_in_lessons():
        assert signature(stub.source, exercise.name) == signature(exercise.stub, exercise.name)


def test_stubs_are_not_attempted_yet(capsys):
    for exercise, (_, stub, checked) in found_in_lessons():
        student = function(exercise.name, stub.source)
        count = len(inspect.signature(student).parameters)
        with pytest.raises(NotImplementedError):
            student(*[None] * count)
        assert f"check.{exercise.name}({exercise.name})" in checked.source
        assert CHECK in checked.metadata.tags
        exec(checked.source, {exercise.name: student})
        assert capsys.readouterr().out == "not attempted yet\n"


def test_an_exercise_says_what_why_and_how_long():
    for exercise, (text, _, _) in found_in_lessons():
        assert re.match(rf"### Exercise {exercise.number}: ", text.source), exercise.stem
        assert "**Why:**" in text.source and "**Time:** about" in text.source


def test_no_exercise_takes_a_name_that_its_lesson_uses():
    """Else the stub would break the cells that follow."""
    for exercise, cells in found_in_lessons():
        for cell in nbformat.read(NOTEBOOKS[exercise.lesson], as_version=4).cells:
            if cell.cell_type == "code" and cell.source not in {c.source for c in cells}:
                used = {n.id for n in ast.walk(ast.parse(cell.source)) if isinstance(n, ast.Name)}
                assert exercise.name not in used, f"it is used in lesson {exercise.lesson}"


@pytest.mark.parametrize("lesson", NOTEBOOKS)
def test_the_exercises_of_a_lesson_have_their_four_cells(lesson):
    notebook = nbformat.read(NOTEBOOKS[lesson], as_version=4)
    assert list(faults(notebook, lesson)) == []


@pytest.mark.parametrize("lesson", NOTEBOOKS)
def test_four_cells_as_they_should_be_have_no_fault(lesson):
    assert list(faults(lesson_with_exercises(lesson), lesson)) == []


def test_faults_of_exercise_cells_are_found():
    def broken(change) -> list[str]:
        notebook = lesson_with_exercises("01")
        change(notebook.cells)
        return list(faults(notebook, "01"))

    def replaced(number: int, old: str, new: str):
        def change(cells):
            assert old in cells[number].source
            cells[number].source = cells[number].source.replace(old, new)
        return change

    cases = {
        "01_1_interleave: 0 cells tagged 'exercise' define it, not one":
            lambda cells: cells[1].metadata.tags.clear(),
        "its text does not start with '### Exercise 1: '": replaced(0, "Exercise 1", "Exercise 2"),
        "its text lacks '**Why:**'": replaced(0, "**Why:**", "Why:"),
        "its text lacks '**Level:** medium.'": replaced(0, "medium", "easy"),
        "its text lacks '**Time:** about ten minutes.'": replaced(0, "ten minutes", "an hour"),
        "does not show the hint of hints/01_1_interleave.md":
            replaced(0, "Cut the prompt", "Cut up the prompt"),
        "its stub is not what its solution defines": replaced(1, "def ", "# %load x\ndef "),
        "the cell under its stub is not check.interleave(interleave), tagged 'nbval-check-output'":
            lambda cells: cells[2].metadata.tags.clear(),
        "its last cell is not the one that loads its solution, tagged 'solution'":
            replaced(3, "01_1", "01_2"),
        "['markdown', 'code', 'code', 'markdown'], not text, stub, check and solution":
            lambda cells: cells.pop(3)}
    for words, change in cases.items():
        found = broken(change)
        assert len(found) == 1 and words in found[0], (words, found)


def test_a_solution_is_loaded_below_the_attempt_and_defined_by_a_second_run(monkeypatch):
    """What the last cell says: remove the #, run it twice."""
    monkeypatch.chdir(REPOSITORY / "notebooks")
    shell = InteractiveShell()
    for exercise in exercises():
        first, load = exercise.loading_cell.split("\n")
        assert shell.run_cell(f"{first}\n{load.removeprefix('# ')}").success
        loaded = shell.rl_next_input
        assert loaded.split("\n", 1) == [load, source(exercise.name)]
        assert exercise.name not in shell.user_ns
        assert shell.run_cell(loaded).success
        assert signature(source(exercise.name), exercise.name)
        assert callable(shell.user_ns.pop(exercise.name))
