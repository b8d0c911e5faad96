"""Lesson 05: measuring whether the model uses its images, with intervals and controls."""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import replace
from itertools import product

import numpy as np
import pandas as pd
import torch
from scipy.stats import binomtest

from vlm_utils import tasks, tiny_earth
from vlm_utils.architecture import MultiImageVLM
from vlm_utils.collate import collate_multi_image
from vlm_utils.datasets import TaskDataset
from vlm_utils.processor import IMAGE_TOKEN, MultiImageProcessor, identifier
from vlm_utils.tasks import Recipe, Truth

_IDENTIFIER = re.compile(r"<image_(\d+)>")


@torch.inference_mode()
def predict(model: MultiImageVLM, processor: MultiImageProcessor, dataset: TaskDataset,
            batch_size: int = 128, max_new_tokens: int = 48, **generation) -> pd.DataFrame:
    """The model's answer to every sample, greedy unless told: one row per sample, in order.

    Columns: task, num_images, prompt, answer (the truth), prediction. Samples of similar length
    are batched together. generation: arguments of `generate`, as do_sample and temperature.
    """
    model.eval()
    recipes = dataset.recipes
    order = sorted(range(len(recipes)), key=lambda i: (len(recipes[i].rows),
                                                       len(recipes[i].prompt)))
    predictions: dict[int, str] = {}
    for start in range(0, len(order), batch_size):
        chosen = order[start:start + batch_size]
        batch = collate_multi_image([dataset[i] for i in chosen], processor, for_generation=True)
        ids = model.generate(
            **{name: values.to(model.device) for name, values in batch.items()},
            **({"do_sample": False} | generation), max_new_tokens=max_new_tokens,
            pad_token_id=processor.pad_token_id)
        predictions |= {i: processor.decode(row) for i, row in zip(chosen, ids, strict=True)}
    return pd.DataFrame({
        "task": [r.task for r in recipes], "num_images": [len(r.rows) for r in recipes],
        "prompt": [r.prompt for r in recipes], "answer": [r.answer for r in recipes],
        "prediction": [predictions[i] for i in range(len(recipes))]})


def parse_choice(text: str, num_images: int) -> int | None:
    """The number k of the one image that an answer names, or None: none, several, or no such."""
    named = {int(k) for k in _IDENTIFIER.findall(text)}
    if len(named) != 1:
        return None
    k = named.pop()
    return k if 1 <= k <= num_images else None


def grade(predictions: pd.DataFrame) -> pd.DataFrame:
    """Add `valid` and `correct` to predictions. What cannot be parsed stays, and is wrong.

    A selection is valid if it names exactly one of the images; any other answer if it has the
    form of its task's true answers (`tasks.is_answer`). Correct: the same image, or the same text.
    Raises ValueError where a sample has no true answer to compare with.
    """
    unknown = predictions["answer"].isna()
    if unknown.any():
        raise ValueError(f"sample {int(unknown.idxmax())} has no true answer: only captioned "
                         "images and TinyEarth can be graded")
    valid, correct = [], []
    for row in predictions.itertuples():
        if row.task == "select":
            choice = parse_choice(row.prediction, row.num_images)
            valid.append(choice is not None)
            correct.append(choice is not None and identifier(choice) == row.answer)
        else:
            valid.append(tasks.is_answer(row.task, row.prediction, like=row.answer))
            correct.append(row.prediction == row.answer)
    return predictions.assign(valid=valid, correct=correct)


def wilson_interval(correct: int, total: int, confidence: float = 0.95) -> tuple[float, float]:
    """Where the true accuracy lies, from `correct` of `total` (Wilson 1927), as shares."""
    if not 0 <= correct <= total or total == 0:
        raise ValueError(f"{correct} correct of {total} is no share")
    interval = binomtest(int(correct), int(total)).proportion_ci(confidence, method="wilson")
    return float(interval.low), float(interval.high)


def summarise(graded: pd.DataFrame) -> pd.DataFrame:
    """Accuracy for each task and number of images, beside what guessing would score.

    chance: one of N for a selection. prior: always giving, to questions that begin alike, the
    commonest answer of these samples; "Is there" alone rules out all but two answers.
    low, high: the 95% Wilson interval. invalid: share of answers that cannot be parsed.
    """
    rows = []
    for (task, num_images), group in graded.groupby(["task", "num_images"], sort=True):
        low, high = wilson_interval(group["correct"].sum(), len(group))
        rows.append({
            "task": task, "num_images": num_images, "samples": len(group),
            "accuracy": group["correct"].mean(), "low": low, "high": high,
            "chance": 1 / num_images if task == "select" else np.nan,
            "prior": _answer_prior(group),
            "invalid": 1 - group["valid"].mean()})
    return pd.DataFrame(rows)


def _answer_prior(graded: pd.DataFrame) -> float:
    """The share that is right where each kind of question always gets its commonest answer.

    A kind is its first two words: "Where is" wants a place. More words would name what is asked
    about, and leave so few questions of each kind that the commonest answer is there by chance.
    """
    words = graded["prompt"].str.replace(IMAGE_TOKEN, " ").str.replace(_IDENTIFIER, " ", regex=True)
    kinds = words.str.split().str[:2].str.join(" ")
    commonest = graded.groupby(kinds)["answer"].agg(lambda answers: answers.value_counts().iloc[0])
    return commonest.sum() / len(graded)


def evaluate(model: MultiImageVLM, processor: MultiImageProcessor, dataset: TaskDataset,
             **options) -> pd.DataFrame:
    """predict, grade and summarise in one call."""
    return summarise(grade(predict(model, processor, dataset, **options)))


def warn_small_samples(summary: pd.DataFrame, dataset: TaskDataset,
                       widest: float = 0.3) -> list[str]:
    """In words, which rows of a summary mean little: too few samples, or too few images.

    An interval takes its samples for independent. Questions about one place, or one image, are
    not: at worst they are right or wrong together, and there are only as many independent samples
    as the places shown can fill once (effective sample size, Kish 1965). Named is a row whose
    interval, counted so, is wider than `widest`, as a share.
    Raises ValueError where the summary is not of this dataset.
    """
    truth = dataset.table.truth
    place_of = {row: place for place, rows in enumerate(truth.places) for row in rows}
    unit = "place" if any(len(rows) > 1 for rows in truth.places) else "image"
    asked, shown, used = defaultdict(int), defaultdict(set), defaultdict(int)
    for recipe in dataset.recipes:
        key = recipe.task, len(recipe.rows)
        places = {place_of.get(row, -1 - row) for row in recipe.rows}   # or a place of its own
        asked[key] += 1
        shown[key] |= places
        used[key] += len(places)
    warnings = []
    for row in summary.itertuples():
        key, name = (row.task, row.num_images), f"{row.task} of {row.num_images}"
        if asked[key] != row.samples:
            raise ValueError(f"{name}: the summary counts {row.samples} samples, the dataset holds "
                             f"{asked[key]}: give the dataset that was evaluated")
        places = len(shown[key])
        independent = min(row.samples, max(1, round(places * row.samples / used[key])))
        low, high = wilson_interval(round(row.accuracy * independent), independent)
        if high - low <= widest:
            continue
        width = f"{low:.0%} to {high:.0%}, {100 * (high - low):.0f} points wide"
        if independent < row.samples:
            warnings.append(f"{name}: {row.samples} samples show only {places} different {unit}s: "
                            f"{row.low:.0%} to {row.high:.0%} is too narrow, with each {unit} "
                            f"counted once it is {width}: add images")
        else:
            warnings.append(f"{name}: {row.samples} samples of {places} different {unit}s leave "
                            f"{width}: ask more samples")
    return warnings


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
        if not tasks.is_free_text(recipe.task, truth):
            raise ValueError(f"sample {i} is of {recipe.task!r}, which has one right answer: use "
                             "grade, or dataset.of_task('describe')")
        described = _described_rows(recipe)
        bare = [row for row in described if not truth.captions[row]]
        if bare:
            raise ValueError(f"sample {i} shows row {bare[0]}, which has no caption to "
                             "compare with: add a metadata.jsonl with caption_0 to the folder")
        right.append(truth.captions[described[0]] if recipe.task != "compare" else [
            tasks.caption_pair(*pair) for pair in product(*(truth.captions[r] for r in described))])
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
    named = _IDENTIFIER.search(recipe.prompt)
    return recipe.rows[int(named[1]) - 1:][:1] if named else recipe.rows[:1]


# --- controls: the same questions, with something taken away ---------------------------------

def blind(dataset: TaskDataset) -> TaskDataset:
    """Every image replaced by the mean of all: what can be answered without seeing?"""
    mean = dataset.features[list(range(len(dataset.features)))].float().mean(dim=0)
    return replace(dataset, features=_Everywhere(mean))


def shuffled(dataset: TaskDataset, seed: int = 0) -> TaskDataset:
    """The images of another sample of the same task and number of images; answers stay.

    Raises ValueError where a sample is the only one of its task and number of images.
    """
    rng = np.random.default_rng(seed)
    recipes = list(dataset.recipes)
    groups: dict[tuple, list[int]] = {}
    for i, recipe in enumerate(recipes):
        groups.setdefault((recipe.task, len(recipe.rows)), []).append(i)
    for (task, num_images), members in groups.items():
        if len(members) == 1:
            raise ValueError(f"the only sample of {task!r} with {num_images} images: there is no "
                             "other to take images from")
        turned = rng.permutation(members)
        for i, j in zip(turned, np.roll(turned, 1), strict=True):
            recipes[i] = replace(dataset.recipes[i], rows=dataset.recipes[j].rows)
    return replace(dataset, recipes=recipes)


def permuted(dataset: TaskDataset, seed: int = 0) -> TaskDataset:
    """Selections with their images in another order, each, and the answers moved with them."""
    rng = np.random.default_rng(seed)
    recipes = []
    for recipe in dataset.recipes:
        if recipe.task != "select":
            raise ValueError(f"only selections can be permuted, not {recipe.task!r}: "
                             "use dataset.of_task('select')")
        same = order = np.arange(len(recipe.rows))
        while len(same) > 1 and (order == same).all():  # by chance half of the pairs would stay
            order = rng.permutation(len(same))
        answer = int(np.flatnonzero(order == int(_IDENTIFIER.search(recipe.answer)[1]) - 1)[0])
        recipes.append(replace(recipe, rows=tuple(recipe.rows[i] for i in order),
                               answer=identifier(answer + 1)))
    return replace(dataset, recipes=recipes)


def with_unrelated(dataset: TaskDataset, seed: int = 0, max_images: int = 8) -> TaskDataset:
    """One more image, of another place, at a random position: names move along, truth stays.

    A selection gets an image that shares neither cover nor any kind of thing with the right one:
    nothing that is said of the right one is then true of it. Without scenes, it shares no caption.
    A question about one image (refer) gets any image. max_images: of the processor.
    Raises ValueError for other tasks, for samples that are full, and where no such image is left.
    """
    rng = np.random.default_rng(seed)
    truth = dataset.table.truth
    place_of = {row: place for place, rows in enumerate(truth.places) for row in rows}
    recipes = []
    for i, recipe in enumerate(dataset.recipes):
        if recipe.task not in ("select", "refer"):
            raise ValueError(f"sample {i} is of {recipe.task!r}, whose answer another image could "
                             "change: use dataset.of_task('select') or dataset.of_task('refer')")
        if len(recipe.rows) >= max_images:
            raise ValueError(f"sample {i} has {len(recipe.rows)} images and the model has names "
                             f"for {max_images}: take samples of fewer images")
        row = _unrelated_row(recipe, truth, place_of, rng)
        if row is None:
            raise ValueError(f"sample {i}: none of the {len(truth.scenes)} images shows another "
                             "place and surely something else: use a table with more images")
        recipes.append(_insert_image(recipe, row, int(rng.integers(len(recipe.rows) + 1))))
    return replace(dataset, recipes=recipes)


def reversed_frames(dataset: TaskDataset) -> TaskDataset:
    """Sequences backwards in time, with the answers that are true of them then."""
    scenes = dataset.table.truth.scenes
    recipes = []
    for recipe in dataset.recipes:
        rows = recipe.rows[::-1]
        answer = tiny_earth.describe_sequence([scenes[r] for r in rows])
        recipes.append(replace(recipe, rows=rows, answer=answer))
    return replace(dataset, recipes=recipes)


def accuracy_by_position(graded: pd.DataFrame) -> pd.DataFrame:
    """Selections by the position of the right image: chosen how often, right how often."""
    chosen = [parse_choice(row.prediction, row.num_images) for row in graded.itertuples()]
    table = graded.assign(position=graded["answer"].str.extract(r"(\d+)", expand=False).astype(int),
                          chosen=chosen)
    rows = []
    for position, group in table.groupby("position"):
        low, high = wilson_interval(group["correct"].sum(), len(group))
        rows.append({"position": position, "samples": len(group),
                     "accuracy": group["correct"].mean(), "low": low, "high": high,
                     "chosen": (table["chosen"] == position).mean()})
    return pd.DataFrame(rows)


class _Everywhere:
    """A feature table whose every row is the same image."""

    key = "image_features"

    def __init__(self, features: torch.Tensor):
        self.features = features

    def __getitem__(self, rows: list[int]) -> torch.Tensor:
        return self.features.expand(len(rows), *self.features.shape)


def _unrelated_row(recipe: Recipe, truth: Truth, place_of: dict[int, int],
                   rng: np.random.Generator) -> int | None:
    """A random image of another place than a sample's, not to be taken for the right one."""
    def place(row: int) -> int:
        return place_of.get(row, -1 - row)      # an image of its own is a place of its own

    seen = {place(row) for row in recipe.rows}
    right = None
    if recipe.task == "select":
        right = recipe.rows[int(_IDENTIFIER.search(recipe.answer)[1]) - 1]
    for row in map(int, rng.permutation(len(truth.scenes))):
        if place(row) not in seen and (right is None or not _share(truth, row, right)):
            return row
    return None


def _share(truth: Truth, row: int, other: int) -> bool:
    """Could something that is said of one image be true of the other?"""
    if not truth.has_scenes:
        return bool(set(truth.captions[row]) & set(truth.captions[other]))
    first, second = truth.scenes[row], truth.scenes[other]
    kinds = {f.kind for f in first.features} & {f.kind for f in second.features}
    return first.cover == second.cover or bool(kinds)


def _insert_image(recipe: Recipe, row: int, position: int) -> Recipe:
    """The image `row` before image `position`, counted from 0, or right behind the last one."""
    def renamed(text: str) -> str:
        return _IDENTIFIER.sub(lambda m: identifier(int(m[1]) + (int(m[1]) > position)), text)

    pieces = renamed(recipe.prompt).split(IMAGE_TOKEN)      # placeholder k follows piece k
    pieces.insert(min(position + 1, len(recipe.rows)), "")
    rows = (*recipe.rows[:position], row, *recipe.rows[position:])
    answer = None if recipe.answer is None else renamed(recipe.answer)
    return replace(recipe, rows=rows, prompt=IMAGE_TOKEN.join(pieces), answer=answer)
