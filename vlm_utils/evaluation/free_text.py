"""Free text beside all texts that would be right."""

from __future__ import annotations

from itertools import product

import pandas as pd

from vlm_utils import tiny_earth
from vlm_utils.architecture import named_images
from vlm_utils.datasets import Recipe, TaskDataset, caption_pair, is_free_text


def free_text_scores(dataset: TaskDataset, predictions: pd.DataFrame) -> dict[str, float]:
    """Free text beside all texts that would be right: words in common, and what they state.

    Descriptions are compared with all captions of their image; answers about images of which only
    captions are known with those of the image that is meant, or with every pair for a comparison.
    bleu (Papineni et al. 2002), chrf (Popovic 2015): of all texts together, 0 to 100.
    facts_found: share of the true facts that were said; facts_true: share of the facts said that
    are true (nan where none was said); both only where scenes are known.
    Raises ValueError for other tasks, for images without captions, and where the numbers differ.
    """
    import sacrebleu
    if len(predictions) != len(dataset):
        raise ValueError(f"{len(predictions)} predictions for {len(dataset)} samples: give the "
                         "dataset that was predicted")
    truth, texts, right = dataset.table.truth, list(predictions["prediction"]), []
    for i, recipe in enumerate(dataset.recipes):
        if not is_free_text(recipe.task, truth):
            raise ValueError(f"sample {i} is of {recipe.task!r}, which has one right answer: use "
                             "grade, or dataset.of_task('describe')")
        described = _described_rows(recipe)
        bare = [row for row in described if not truth.captions[row]]
        if bare:
            raise ValueError(f"sample {i} shows row {bare[0]}, which has no caption to "
                             "compare with: add a metadata.jsonl with caption_0 to the folder")
        right.append(truth.captions[described[0]] if recipe.task != "compare" else [
            caption_pair(*pair) for pair in product(*(truth.captions[r] for r in described))])
    most = max(map(len, right))  # sacrebleu wants equally many for each; None is left out
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


def _described_rows(recipe: Recipe) -> tuple[int, ...]:
    """The rows that a free answer describes: both of a comparison, else the one that is meant."""
    if recipe.task == "compare":
        return recipe.rows
    named = named_images(recipe.prompt)
    return recipe.rows[named[0] - 1:][:1] if named else recipe.rows[:1]
