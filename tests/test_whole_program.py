"""notebooks/whole_program.py: the whole program on one page, which students copy and change."""

import ast
import os
import re
import subprocess
import sys

from vlm_utils.architecture import MultiImageVLM
from vlm_utils.profiles import REPOSITORY

SCRIPT = REPOSITORY / "notebooks" / "whole_program.py"
TEXT = SCRIPT.read_text(encoding="utf-8")
LINES = TEXT.splitlines()
ALLOWED = {"torch", "transformers", "datasets", "safetensors", "numpy", "PIL"}
TESTS = r"(\d+) of 400 right; by guessing (\d+)"


def run(folder, *options: str) -> list[str]:
    """Its last lines, from a process with one thread in a folder of its own."""
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *options], cwd=folder, capture_output=True, text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": "", "HF_HUB_OFFLINE": "1"})
    assert done.returncode == 0, done.stdout + done.stderr
    return re.split(r"[\r\n]+", done.stdout.strip())


def test_it_fits_on_a_page():
    assert len(LINES) <= 150
    assert [i for i, line in enumerate(LINES, start=1) if len(line) > 88] == []


def test_it_imports_nothing_of_this_course():
    """What is copied must run where the course is not installed."""
    found = set()
    for node in ast.walk(ast.parse(TEXT)):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            found.add(node.module.split(".")[0])
    assert found - set(sys.stdlib_module_names) <= ALLOWED
    assert {"torch", "transformers", "datasets"} <= found


def test_its_first_lines_say_which_lesson_explains_which_lines():
    named = {lesson: (int(first), int(last)) for lesson, first, last in
             re.findall(r"(\d\d) (?:lines )?(\d+)-(\d+)", ast.get_docstring(ast.parse(TEXT)))}
    assert sorted(named) == ["01", "02", "03", "04", "05", "06"]
    ordered = sorted(named.values())
    for lesson, (first, last) in named.items():
        assert LINES[first - 1].startswith(f"# {lesson} "), lesson
        assert last == len(LINES) or LINES[last] == "", lesson
    assert all(after[0] == before[1] + 2 for before, after in
               zip(ordered, ordered[1:], strict=False)) and ordered[-1][1] == len(LINES)


def test_it_runs_from_images_to_a_freed_model_and_stays_in_its_folder(tmp_path):
    before = {path for path in REPOSITORY.iterdir()}
    output = tmp_path / "out"
    lines = run(tmp_path, "--steps", "14", "--output", str(output))
    for task in ("comparison", "selection"):
        for when in ("before", "after"):
            line, = (line for line in lines if line.startswith(f"{task} {when} training: "))
            right, guessed = map(int, re.search(f": {TESTS}$", line).groups())
            assert 0 <= right <= 400 and 60 <= guessed <= 200
    losses = [float(line.split()[-1]) for line in lines if line.startswith("step ")]
    assert len(losses) == 14 and losses[-1] < losses[0]
    assert lines[-2:] == ["loaded again, equal: True", "freed: True"]
    assert {path.name for path in tmp_path.iterdir()} == {"out"}
    assert {path for path in REPOSITORY.iterdir()} == before
    assert {"model.safetensors", "config.json", "tokenizer.json"} <= {
        path.name for path in output.iterdir()}
    # The course reads what it saves.
    assert MultiImageVLM.from_pretrained(output).config.tokens_per_image == 4


def test_its_proof_fails_if_something_still_holds_the_model(tmp_path):
    """Else "freed" could be said of anything. Asked 40 questions for 400: nobody reads the answers.
    """
    held = TEXT
    for old, new in (("del model, again, ", "kept = model\ndel model, again, "),
                     (", 400\n", ", 40\n"),
                     ("Path(__file__).resolve().parents[1]", f"Path({str(REPOSITORY)!r})")):
        assert held.count(old) == 1
        held = held.replace(old, new)
    script = tmp_path / "held.py"
    script.write_text(held, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, str(script), "--steps", "2", "--output", str(tmp_path / "out")],
        capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert done.stdout.splitlines()[-1] == "freed: False", done.stderr
