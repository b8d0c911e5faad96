"""Free text, compared with every text that would be right."""

from __future__ import annotations

from itertools import product

import pandas as pd
import sacrebleu

from vlm_utils import tiny_earth
from vlm_utils.architecture import named_images
from vlm_utils.datasets import Recipe, TaskDataset, caption_pair, is_free_text


def free_text_scores(dataset: TaskDataset, predictions: pd.DataFrame) -> dict[str, float]:
    """How close free text comes to a right one, in words, and how much of what it states is true.

    A description is compared with all captions of its image. An answer about images of which only
    captions are known is compared with those of the image that is meant; a comparison, with every
    pair of captions.
    bleu (Papineni et al. 2002), chrf (Popovic 2015): of all texts together, 0 to 100.
    facts_found: the share of the true facts that were said. facts_true: the share of the facts
    said that are true, nan if none was said. Both only if scenes are known.
    Raises ValueError for other tasks, for images without captions, and if there is not one
    prediction for each sample.
    """
    if len(predictions) != len(dataset):
        raise ValueError(f"{len(predictions)} predictions for {len(dataset)} samples: give the "
                         "dataset that was predicted")
    truth, texts = dataset.table.truth, list(predictions["prediction"])
    right = [_right_texts(dataset, i) for i in range(len(dataset))]
    most = max(map(len, right))     # sacrebleu wants as many for each; it leaves None out
    references = [[r[k] if k < len(r) else None for r in right] for k in range(most)]
    scores = {"bleu": sacrebleu.corpus_bleu(texts, references, force=True).score,
              "chrf": sacrebleu.corpus_chrf(texts, references).score}
    if truth.has_scenes:
        said = [tiny_earth.facts(text) for text in texts]
        true = [tiny_earth.scene_facts(truth.scenes[r.rows[0]]) for r in dataset.recipes]
        shared = sum(len(a & b) for a, b in zip(said, true, strict=True))
        scores["facts_found"] = shared / sum(map(len, true))
        total = sum(map(len, said))
        scores["facts_true"] = shared / total if total else float("nan")
    return scores


def _right_texts(dataset: TaskDataset, i: int) -> list[str]:
    """Every text that would be a right answer to sample i."""
    recipe, truth = dataset.recipes[i], dataset.table.truth
    if not is_free_text(recipe.task, truth):
        raise ValueError(f"sample {i} is of {recipe.task!r}, which has one right answer: use "
                         "grade, or dataset.of_task('describe')")
    rows = _described_rows(recipe)
    bare = [row for row in rows if not truth.captions[row]]
    if bare:
        raise ValueError(f"sample {i} shows row {bare[0]}, which has no caption to compare with: "
                         "add a metadata.jsonl with caption_0 to the folder")
    if recipe.task != "compare":
        return truth.captions[rows[0]]
    return [caption_pair(*pair) for pair in product(*(truth.captions[row] for row in rows))]


def _described_rows(recipe: Recipe) -> tuple[int, ...]:
    """The rows that a free answer describes: both of a comparison, else the one that is meant."""
    if recipe.task == "compare":
        return recipe.rows
    named = named_images(recipe.prompt)
    return recipe.rows[named[0] - 1:][:1] if named else recipe.rows[:1]
