"""Several tasks from one model: each question ends with a sentence that fixes the answer's form.

LLaVA-1.5 (Liu et al. 2023) added "Answer the question using a single word or phrase." to the
questions of which a short answer is wanted: without it, one model cannot know whether a question
asks for a word, a sentence or a box.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from vlm_utils import tiny_earth
from vlm_utils.datasets import (
    COMPARE_PROMPT,
    ImageTable,
    Recipe,
    TaskDataset,
    Truth,
    compare,
    images_first,
    locate_change,
)
from vlm_utils.datasets.one_image import describe, question
from vlm_utils.evaluation import wilson_interval
from vlm_utils.real_data.detection import all_found, detection_scores, things_of, things_text
from vlm_utils.time_series import box_iou, box_scores, parse_box
from vlm_utils.tiny_earth import CELLS, COVERS, KINDS, LINE_PLACES

SHOWN = "What does the image show?"
_BOX = r"\[\d{1,3}, \d{1,3}, \d{1,3}, \d{1,3}\]"
_PLACES = "|".join(tiny_earth.where(place).capitalize() for place in CELLS + LINE_PLACES)
_PHRASE = (rf"(?:Yes|No|Nothing|Small|Large|An? (?:{'|'.join(KINDS)})|{_PLACES}"
           rf"|{'|'.join(cover.capitalize() for cover in COVERS)})\.")
_SENTENCE = rf"(?!{_PHRASE}$)[A-Z][^\[\]]* [^\[\]]*\."
LONGEST_ANSWER = 96     # tokens: three things with their boxes


@dataclass(frozen=True)
class Instruction:
    """A task: its question ("" if each sample has its own), the sentence after it, the form that
    it asks for, and how one sample is made."""

    question: str
    sentence: str
    form: re.Pattern
    make: Callable[[Truth, np.random.Generator], tuple[tuple[int, ...], str, str | None]]

    def prompt(self, text: str = "", num_images: int = 1) -> str:
        """The images, the question, and the sentence that says how to answer it."""
        return images_first(num_images, f"{text or self.question} {self.sentence}")


def _caption(truth, rng):
    recipe = describe(truth, rng)
    return recipe.rows, "", recipe.answer


def _vqa(truth, rng):
    row = int(rng.integers(len(truth.scenes)))
    return (row,), *question(truth.scenes[row], rng)


def _detect(truth, rng):
    row = int(rng.integers(len(truth.scenes)))
    return (row,), "", things_text(things_of(truth.scenes[row]))


def _change(truth, rng):
    recipe = compare(truth, rng)
    return recipe.rows, "", recipe.answer


def _changed(truth, rng):
    """As often yes as no: `compare` alone would make "Yes." right in four of five cases."""
    wants_change = rng.random() < 0.5
    for _ in range(100):
        recipe = compare(truth, rng)
        if (recipe.answer != "Nothing changed.") == wants_change:
            break
    return recipe.rows, "", "No." if recipe.answer == "Nothing changed." else "Yes."


def _change_box(truth, rng):
    recipe = locate_change(truth, rng)
    return recipe.rows, "", recipe.answer


INSTRUCTIONS: dict[str, Instruction] = {
    "caption": Instruction(SHOWN, "Answer in one sentence.", re.compile(_SENTENCE), _caption),
    "vqa": Instruction("", "Answer with a word or a short phrase.", re.compile(_PHRASE), _vqa),
    "detect": Instruction(SHOWN, "Answer with the name and the box of each thing, or none.",
                          re.compile(rf"[a-z ]+ {_BOX}(, [a-z ]+ {_BOX}){{0,2}}\.|none"), _detect),
    "change": Instruction(COMPARE_PROMPT, "Answer in one sentence.", re.compile(_SENTENCE),
                          _change),
    "changed": Instruction(COMPARE_PROMPT, "Answer yes, if anything did, or no.",
                           re.compile(r"(Yes|No)\."), _changed),
    "change_box": Instruction(COMPARE_PROMPT, "Answer with one box, or none.",
                              re.compile(rf"{_BOX}|none"), _change_box),
}


def instruct(table: ImageTable, counts: dict[str, int], seed: int) -> TaskDataset:
    """Samples of each task, {"caption": 100, "detect": 50}, shuffled, without repeats.

    If a data set is too small to hold that many different samples, there are fewer. Raises
    ValueError for an unknown task. Without scenes only captions can be told: see `can_instruct`.
    """
    rng = np.random.default_rng(seed)
    recipes: list[Recipe] = []
    for task, count in counts.items():
        instruction, made = _instruction(task), {}
        for _ in range(3 * count):
            if len(made) == count:
                break
            rows, text, answer = instruction.make(table.truth, rng)
            made[Recipe(rows, instruction.prompt(text, len(rows)), answer, task)] = None
        recipes += made
    return TaskDataset(table, [recipes[i] for i in rng.permutation(len(recipes))])


def _instruction(task: str) -> Instruction:
    if task not in INSTRUCTIONS:
        raise ValueError(f"unknown task {task!r}: choose from {list(INSTRUCTIONS)}")
    return INSTRUCTIONS[task]


def can_instruct(truth: Truth) -> list[str]:
    """The tasks that can be made of what is known: all of scenes, of captions only the first."""
    if truth.has_scenes:
        return list(INSTRUCTIONS)
    return ["caption"] if truth.has_captions else []


def asked_as(dataset: TaskDataset, task: str) -> TaskDataset:
    """The same images with the question and the sentence of another task, its answer unknown.

    The answers that a model gives to both show whether it reads the sentence at all.
    """
    instruction = _instruction(task)
    return replace(dataset, recipes=[
        Recipe(r.rows, instruction.prompt(num_images=len(r.rows)), None, task)
        for r in dataset.recipes])


def in_form(predictions: pd.DataFrame) -> list[bool]:
    """Does each answer have the form that its task's sentence asks for, whether or not it is true?
    """
    return [bool(_instruction(task).form.fullmatch(text)) for task, text in
            zip(predictions["task"], predictions["prediction"], strict=True)]


def right_answers(predictions: pd.DataFrame) -> list[bool]:
    """Was each sample answered right, as its task counts it?

    caption: every fact, and no other. detect: every thing, found by name with an overlap of at
    least 0.5, and no other. change_box: an overlap above 0.5, or "none". The others: the very text.
    """
    right = []
    for task, answer, text in predictions[["task", "answer", "prediction"]].itertuples(index=False):
        if task == "caption":
            right.append(tiny_earth.facts(text) == tiny_earth.facts(answer))
        elif task == "detect":
            right += all_found(pd.DataFrame({"answer": [answer], "prediction": [text]}))
        elif task == "change_box" and (box := parse_box(answer)) is not None:
            right.append(box_iou(box, parse_box(text)) > 0.5)
        else:
            right.append(text == answer)
    return right


def score_tasks(predictions: pd.DataFrame) -> pd.DataFrame:
    """One row for each task: what its own field counts, and how many samples were wholly right.

    measure, score: facts of captions, exact answers, F1 of things, F1 of pixels. right: the share
    of samples of which everything was right (`right_answers`); low, high: its 95% interval.
    in_form: the share of answers of the form that was asked for.
    """
    graded = predictions.assign(right=right_answers(predictions), in_form=in_form(predictions))
    rows = []
    for task in [task for task in INSTRUCTIONS if task in set(graded["task"])]:
        group = graded[graded["task"] == task]
        low, high = wilson_interval(group["right"].sum(), len(group))
        measure, score = _own_measure(task, group)
        rows.append({"task": task, "samples": len(group), "measure": measure, "score": score,
                     "right": group["right"].mean(), "low": low, "high": high,
                     "in_form": group["in_form"].mean()})
    return pd.DataFrame(rows)


def caption_facts(predictions: pd.DataFrame) -> dict[str, float]:
    """facts_found: the share of the true facts that captions say. facts_true: the share of the
    facts they say that are true. f1: of both."""
    said = [tiny_earth.facts(text) for text in predictions["prediction"]]
    true = [tiny_earth.facts(text) for text in predictions["answer"]]
    shared = sum(len(a & b) for a, b in zip(said, true, strict=True))
    claimed, wanted = sum(map(len, said)), sum(map(len, true))
    return {"facts_found": shared / wanted if wanted else float("nan"),
            "facts_true": shared / claimed if claimed else float("nan"),
            "f1": 2 * shared / (claimed + wanted) if claimed + wanted else float("nan")}


def _own_measure(task: str, predictions: pd.DataFrame) -> tuple[str, float]:
    if task == "caption":
        return "F1 of facts", caption_facts(predictions)["f1"]
    if task == "detect":
        return "F1 of things", detection_scores(predictions)["f1"]
    if task == "change_box":
        return "F1 of pixels", box_scores(predictions)["pixel_f1"]
    return "exact answers", float((predictions["prediction"] == predictions["answer"]).mean())
