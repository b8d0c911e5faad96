"""Exercises: every check passes its solution and names the mistakes that students make."""

import ast
import inspect
import re
import time
from pathlib import Path

import nbformat
import pytest

from vlm_utils import check
from vlm_utils.check.report import same

REPOSITORY = Path(__file__).resolve().parents[1]
SOLUTIONS = {path.stem.split("_", 2)[2]: path
             for path in sorted((REPOSITORY / "solutions").glob("*.py"))}
NOTEBOOKS = {path.name[:2]: path for path in sorted((REPOSITORY / "notebooks").glob("0*.ipynb"))}
PLAIN_MERGE = "\n    merged[places] = vectors\n"
RUNS = """
    merged, filled = word_embeddings.clone(), 0
    for row, place in zip(merged, places):
        position = 0
        while position < len(row):
            if place[position]:
                row[position:position + 2] = image_embeddings[filled]
                filled += 1
                while position < len(row) and place[position]:
                    position += 1
            position += 1
"""

# For each check, wrong solutions: what to replace in the solution, by what, and words of the
# message that names the mistake.
WRONG = {
    "interleave": [
        ("    return first + ", "    for block in blocks:\n        prompt = prompt.replace("
         "'<image>', block, 1)\n    return prompt\n    return first + ", "block 2 went into"),
        ("return first +", "return ''.join(blocks) + first + ''.join(others)\n    return first +",
         "prepended layout"),
        ("block + text", "blocks[0] + text", "every <image> became block 1"),
        ("return first + ", "return ", "before the first image is lost"),
        ('prompt.split("<image>")', "__import__('re').split('(?:<image>)+', prompt)\n"
         "    blocks = blocks[:len(others)] if prompt[0] == '<' else blocks", "adjacent <image>"),
        ("    if len(others)", "    others = others[:len(blocks)]\n    if len(others)",
         "a missing image goes unnoticed"),
        ("    if len(others)", "    if False and len(others)", "does not say both numbers")],
    "merge_images": [
        (PLAIN_MERGE, RUNS, "adjacent placeholders were merged"),
        (PLAIN_MERGE, "\n    for row, place in zip(merged, places):\n"
         "        row[place] = vectors[:place.sum()]\n", "starts again with image 1"),
        (PLAIN_MERGE, "\n    merged[places] = image_embeddings.mean(1).repeat_interleave(2, 0)\n",
         "one mean vector"),
        (PLAIN_MERGE, "\n    merged[places] = image_embeddings[:, 0].repeat_interleave(2, 0)\n",
         "its first vector"),
        (PLAIN_MERGE, "\n    merged[places] = image_embeddings.transpose(0, 1).flatten(0, 1)\n",
         "woven"),
        ("torch.clone(word_embeddings)", "word_embeddings", "changes its input word_embeddings"),
        ("places.sum() != len(vectors)", "places.sum() < len(vectors)", "by accident"),
        ("    if places", "    merged = word_embeddings.clone()\n    for place, vector in zip("
         "places.nonzero(), vectors):\n        merged[tuple(place)] = vector\n    return merged\n"
         "    if places", "an image too few goes unnoticed"),
        ("image_embeddings.flatten(0, 1)", "image_embeddings.flatten(0, 1)[:places.sum()]",
         "an image too many goes unnoticed")],
    "images_that_fit": [
        ("merge_factor**2 + 1", "merge_factor**2", "the identifier was forgotten"),
        ("merge_factor**2", "merge_factor", "the factor squared"),
        (" - text_tokens", "", "the text was forgotten"),
        ("max(0, positions - text_tokens) // tokens", "(positions - text_tokens) / tokens",
         "a part of an image does not fit"),
        ("max(0, positions - text_tokens)", "(positions - text_tokens)", "0 images fit")],
    "find_leaks": [
        (' or image["place"] in places', "", "in other pixels"),
        ("- {None}", "", "an unknown place was taken for a place"),
        ('image["pixels"] in pixels or ', "", "identical pixels are a leak too"),
        ("enumerate(test)", "enumerate(train)", "numbers of training images"),
        (" or ", " and ", "both agree")],
    "make_selection": [
        ("rng.choice(others,", "rng.choice([r for r in range(len(shows)) if r != fits[0]],",
         "a distractor shows a lake too"),
        ("int(rng.integers(num_images))", "0", "not balanced"),
        ("position + 1}", "position}", "counts from 0"),
        ("position + 1}", "rows[position]}", "the row of the table"),
        ("replace=False", "replace=True", "in the sample twice"),
        ("int(rng.choice(fits))", "fits[0]", "image 5 is never used"),
        ("rng.choice(others", "np.random.choice(others", "the same seed gave another sample")],
    "mask_labels": [
        ("attention_mask == 1", "input_ids != 2", "never stops"),
        ("(position >= starts) & ", "", "the prompt is learnt"),
        (" & (attention_mask == 1)", "", "the padding is learnt"),
        ("return input_ids.masked_fill(~learnt, -100)",
         "labels = input_ids.masked_fill(~learnt, -100)\n"
         "    return torch.cat([labels[:, 1:], torch.full((2, 1), -100)], 1)", "twice is wrong"),
        ("(position >= starts)", "(input_ids != 9)", "only the placeholders"),
        (">= starts", "> starts", "the first token of the answer is masked"),
        ("masked_fill(", "masked_fill_(", "changes its input input_ids")],
    "collate_samples": [
        ('torch.cat([s["pixels"] for s in samples])', 'torch.cat([torch.cat([s["pixels"], '
         'torch.zeros(3 - len(s["pixels"]), 3, 1, 1)]) for s in samples])', "padding images"),
        ('torch.cat([s["pixels"] for s in samples])',
         'torch.cat([p[None] for s in samples for p in s["pixels"] if p.any()])',
         "a black image was taken for padding"),
        ("shape[1] - len(text) if for_generation else 0", "0",
         "generation was padded on the right"),
        ("shape[1] - len(text) if for_generation else 0", "shape[1] - len(text)",
         "training was padded on the left"),
        ('"attention_mask": mask', '"attention_mask": (ids != pad_token_id).long()',
         "the end token is not attended"),
        ("return batch if for_generation", "labels[ids == pad_token_id] = -100\n"
         "    return batch if for_generation", "the end token is not learnt"),
        ("answer = start + len(text), start + len(samples[i][\"prompt\"])",
         "answer = start + len(text), start", "the prompt is learnt"),
        ("[s[\"prompt\"] if for_generation else s[\"prompt\"] + s[\"answer\"]",
         "[s[\"prompt\"] + s[\"answer\"]", "the answers are still there"),
        ("max(map(len, texts))", "16", "no further"),
        ("return batch if for_generation else batch", "return batch", "the batch has labels")],
    "split_images": [
        ("counts.tolist()", "[len(images) // len(input_ids)] * 2", "the same number of images"),
        (" // tokens_per_image", "", "RuntimeError"),
        ("return list(images.split(counts.tolist()))",
         "return [images[:count] for count in counts]", "starts again with the first"),
        ("counts = placeholders // tokens_per_image",
         "starts = (input_ids == image_token_id).int().diff(dim=1, prepend=input_ids[:, :1] * 0)\n"
         "    counts = (starts == 1).sum(1)\n    images = images[:counts.sum()]",
         "adjacent placeholders were merged")],
    "wasted_tokens": [
        ("max(batch)", "max(lengths)", "the longest sample of all"),
        ("range(0, len(lengths), batch_size)", "range(0, len(lengths) - batch_size + 1, "
         "batch_size)", "smaller batch was left out"),
        ("* len(batch)", "* batch_size", "as if it were full"),
        ("    wasted = 0", "    lengths, wasted = sorted(lengths), 0", "were sorted first"),
        (" - sum(batch)", "", "these are all tokens")],
    "decay_groups": [
        ("is_matrix and id(parameter) not in embeddings", "is_matrix", "the embeddings decay"),
        ("not parameter.requires_grad", "False", "the frozen encoder"),
        ("is_matrix and id", "id", "norms or biases decay"),
        ('"params": kept', '"params": kept + decayed', "layer.weight stands twice"),
        ("[{\"params\": decayed, \"weight_decay\": weight_decay},\n            ", "[",
         "layer.weight is in no group"),
        ("    for parameter in model.parameters():", "    for name, parameter in "
         "model.named_parameters(remove_duplicate=False):", "words.weight stands twice")],
    "accumulate_gradients": [
        ('reduction="sum") / count', ') / len(batches)', "the mean of the batches' means"),
        ("(labels != -100).sum()", "labels.numel()", "masked tokens were counted"),
        ("        loss.backward()", "        model.zero_grad()\n        loss.backward()",
         "only the last batch counts"),
        ("        loss.backward()\n", "", "call backward"),
        ("loss.item()", "loss", "remembers its graph"),
        ("    return total", "    for p in model.parameters():\n        p.data -= p.grad\n"
         "    return total", "the weights have moved")],
    "learning_rate": [
        ("    if step < warmup_steps:\n        return peak * step / warmup_steps\n", "",
         "there is no warm-up"),
        ("return peak * step / warmup_steps", "return peak", "there is no warm-up"),
        ("(step - warmup_steps) / (steps - warmup_steps)", "step / steps", "the rate jumps down"),
        ("0.5 * (1 + math.cos(math.pi * share))", "math.cos(math.pi * share)", "negative"),
        ("math.pi * share", "180 * share", "radians"),
        ("0.5 * (1 + math.cos(math.pi * share))", "(1 - share)", "straight line")],
    "selection_accuracy": [
        ("    for prediction, answer in zip(predictions, answers, strict=True):",
         "    pairs = [(p, a) for p, a in zip(predictions, answers) if '<image_' in p]\n"
         "    predictions, answers = zip(*pairs)\n"
         "    for prediction, answer in zip(predictions, answers):", "were dropped"),
        ("named == {answer}", "answer in prediction", "names two images"),
        ("named == {answer}", "prediction == answer", "the identifier alone"),
        (" / len(answers)", "", "that is a count"),
        ("right / len", "100 * right / len", "that is a percentage")],
    "wilson": [
        ("return centre - half, centre + half", "half = z * math.sqrt(p * (1 - p) / total)\n"
         "    return p - half, p + half", "normal approximation"),
        ("return centre - half, centre + half", "return p - half, p + half",
         "it moves from the share"),
        ("z / shrink *", "z *", "the half width was not divided"),
        ("centre - half, centre + half", "centre + half, centre - half", "swapped"),
        ("centre - half, centre + half", "100 * (centre - half), 100 * (centre + half)",
         "these are percentages")],
    "permute_selection": [
        ("order.index(right) + 1", "right + 1", "the answer did not"),
        ("order.index(right)", "order[right]", "moved by the inverse"),
        ("order.index(right) + 1", "order.index(right)", "counts from 0"),
        ("tuple(rows[i] for i in order)", "tuple(rows[order.index(i)] for i in range(len(rows)))",
         "the images were moved by the inverse")],
    "permutation_agreement": [
        ("order[second - 1] == first - 1", "second == first", "the positions were compared"),
        ("        if first is not None and second is not None:\n            agreed += order["
         "second - 1] == first - 1", "        agreed += first is None or order[second - 1] == "
         "first - 1", "was counted as agreement"),
        ("order[second - 1] == first - 1", "order[first - 1] == second - 1", "by the inverse"),
        (" / len(selections)", "", "that is a count")],
    "predict_scores": [
        ("length**2", "length", "the length is not squared"),
        ("(tokens_per_image + 1)", "tokens_per_image", "the identifiers were forgotten"),
        (" * 4", "", "not bytes"),
        ("* heads", "", "the heads were forgotten"),
        ("tokens_per_image + 1) + text_tokens", "tokens_per_image + 1 + text_tokens)",
         "once for each image")],
    "measure_tensors": [
        ("result = work()", "result = None; work()", "freed before the second measurement"),
        (".tensors", ".process", "this is the process"),
        ("return after - before", "return before - after", "upside down"),
        ("return after - before", "return 1e6 * (after - before)", "these are bytes"),
        ("result = work()", "result = None", "work was never called")],
    "forget_error": [
        ("    while error", "    del error; return\n    while error",
         "del removes your name for the error"),
        ("    while error", "    __import__('gc').collect(); return\n    while error",
         "collecting frees nothing"),
        ("error = error.__cause__ or error.__context__", "error = None", "the error has a cause"),
        ("error.__traceback__ = None", "error.__traceback__ = None; error.args = ()",
         "the message is gone")],
}
CASES = [(name, case) for name, cases in WRONG.items() for case in cases]


def source(name: str) -> str:
    return SOLUTIONS[name].read_text(encoding="utf-8")


def function(name: str, text: str):
    """The exercise's function, defined by a text as a notebook's cell would define it."""
    namespace = {}
    exec(compile(text, f"<{name}>", "exec"), namespace)
    return namespace[name]


def verdict(capsys, name: str, student) -> str:
    capsys.readouterr()
    assert getattr(check, name)(student) is None
    return capsys.readouterr().out


# --- checks ------------------------------------------------------------------------------------

@pytest.mark.parametrize("name", SOLUTIONS)
def test_a_solution_passes_its_check_at_once(name, capsys):
    student = function(name, source(name))
    seconds = []
    for _ in range(2):  # the faster of two: the first may import something
        started = time.process_time()
        assert verdict(capsys, name, student).split("\n")[0] == "passed"
        seconds.append(time.process_time() - started)
    assert min(seconds) < 1


@pytest.mark.parametrize("name, case", CASES, ids=[f"{n}: {c[2]}" for n, c in CASES])
def test_a_mistake_is_named(name, case, capsys):
    old, new, words = case
    text = source(name)
    assert old in text, "the solution has changed: change the mistake with it"
    said = verdict(capsys, name, function(name, text.replace(old, new)))
    assert said.startswith("not yet: ")
    assert words in " ".join(said.split("\ninput\n")[0].split()), said


def test_each_check_has_a_solution_and_at_least_three_mistakes():
    assert set(check.__all__) == set(SOLUTIONS) == set(WRONG)
    assert all(len(cases) >= 3 for cases in WRONG.values())


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
    assert seen or name in ("make_selection", "measure_tensors", "forget_error")


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


# --- notebooks ---------------------------------------------------------------------------------

def exercises() -> list[tuple[str, str, int, list]]:
    """(lesson, name, number, [markdown, stub, check cell]) of every exercise, in order."""
    found = []
    for lesson, path in NOTEBOOKS.items():
        cells = nbformat.read(path, as_version=4).cells
        for i, cell in enumerate(cells):
            match = re.search(r"^# %load \.\./solutions/(\d\d)_(\d)_(\w+)\.py$", cell.source, re.M)
            if match:
                assert match[1] == lesson
                found.append((lesson, match[3], int(match[2]), cells[i - 1:i + 2]))
    return found


def signature(text: str, name: str) -> str:
    """Arguments, annotations and docstring of a function, as they are written."""
    node = next(n for n in ast.parse(text).body if getattr(n, "name", "") == name)
    returns = ast.unparse(node.returns) if node.returns else ""
    return f"{ast.unparse(node.args)} -> {returns}: {ast.get_docstring(node)}"


def test_every_check_has_one_exercise_and_every_lesson_two_to_four():
    names = [name for _, name, _, _ in exercises()]
    assert sorted(names) == sorted(check.__all__)
    for lesson in NOTEBOOKS:
        numbers = [number for where, _, number, _ in exercises() if where == lesson]
        assert numbers == list(range(1, len(numbers) + 1)) and 2 <= len(numbers) <= 4


def test_stubs_ask_for_what_their_solutions_define():
    for lesson, name, number, (_, stub, _) in exercises():
        path = SOLUTIONS[name]
        assert path.name == f"{lesson}_{number}_{name}.py"
        assert signature(stub.source, name) == signature(source(name), name), name
        assert len(source(name).splitlines()) <= 24, f"{name} with its %load is too long a cell"
        assert max(map(len, source(name).splitlines())) <= 76


def test_stubs_are_not_attempted_yet(capsys):
    for _, name, _, (_, stub, checked) in exercises():
        student = function(name, stub.source)
        count = len(inspect.signature(student).parameters)
        with pytest.raises(NotImplementedError):
            student(*[None] * count)
        assert f"check.{name}({name})" in checked.source
        assert "nbval-check-output" in checked.metadata.tags
        exec(checked.source, {name: student})
        assert capsys.readouterr().out == "not attempted yet\n"


def test_an_exercise_says_what_why_and_how_long():
    for _, name, number, (text, _, _) in exercises():
        assert re.match(rf"### Exercise {number}: ", text.source), name
        assert "**Why:**" in text.source and "**Time:** about" in text.source


def test_no_exercise_takes_a_name_that_its_lesson_uses():
    """Else the stub would break the cells that follow."""
    for lesson, name, _, cells in exercises():
        for cell in nbformat.read(NOTEBOOKS[lesson], as_version=4).cells:
            if cell.cell_type == "code" and cell.source not in {c.source for c in cells}:
                used = {n.id for n in ast.walk(ast.parse(cell.source)) if isinstance(n, ast.Name)}
                assert name not in used, f"{name} is used in lesson {lesson}"
