"""What to ask of a data set before anything is trained: what guessing scores, how the answers are
spread, how many images an interval needs, how far the domain is, under what licence it comes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from vlm_utils.datasets import ImageFeatures, ImageTable, TaskDataset
from vlm_utils.evaluation import wilson_interval
from vlm_utils.real_data.duplicates import near_duplicates

_LICENCE = re.compile(r"licen[cs]e|creative commons|\bcc[ -]?(?:by|0)\b|public domain|copyright"
                      r"|terms of use|©", re.I)
_STATES = re.compile(r"licen[cs]e|copying|readme|attribution|credits|terms|metadata", re.I)
FAR_TOO_WIDE = 0.3              # of an interval, as a share: next to nothing is known
MOST_GUESSED = 0.6              # of all answers of a task: more, and accuracy says little


def guessing(samples: TaskDataset) -> pd.DataFrame:
    """What the commonest answer scores, for each task and number of images.

    Columns: task, num_images, samples, answers (how many different ones), commonest, share (what
    guessing scores) with its Wilson interval low, high, and only_once: the share of answers that
    occur once, for which accuracy by the letter is a harsh measure. Samples without an answer are
    not counted. Raises ValueError if none has one.
    """
    table = _answers(samples)
    rows = []
    for (task, num_images), group in table.groupby(["task", "num_images"], sort=True):
        counts = group["answer"].value_counts()
        low, high = wilson_interval(int(counts.iloc[0]), len(group))
        rows.append({"task": task, "num_images": num_images, "samples": len(group),
                     "answers": len(counts), "commonest": counts.index[0],
                     "share": counts.iloc[0] / len(group), "low": low, "high": high,
                     "only_once": (counts == 1).sum() / len(group)})
    return pd.DataFrame(rows)


def balance(samples: TaskDataset, task: str | None = None) -> pd.DataFrame:
    """How often each answer is the right one, the commonest first; of all tasks, or of one.

    Columns: task, answer, samples, share (within its task).
    """
    table = _answers(samples)
    if task is not None:
        known = sorted(table["task"].unique())
        if task not in known:
            raise ValueError(f"no sample is of {task!r}: the tasks are {', '.join(known)}")
        table = table[table["task"] == task]
    counted = table.groupby(["task", "answer"]).size().rename("samples").reset_index()
    counted["share"] = counted["samples"] / counted.groupby("task")["samples"].transform("sum")
    return counted.sort_values(["task", "samples", "answer"], ascending=[True, False, True],
                               ignore_index=True)


def samples_needed(width: float, accuracy: float = 0.5) -> int:
    """The fewest samples whose 95% Wilson interval is at most `width` wide, a share.

    accuracy: what you expect; 0.5 needs most. They must be independent: questions about the same
    image count as one (`warn_small_samples`). Raises ValueError for shares outside 0 to 1.
    """
    if not 0 < width < 1 or not 0 <= accuracy <= 1:
        raise ValueError(f"width is between 0 and 1 and accuracy from 0 to 1, not {width} and "
                         f"{accuracy}")

    def wide(total: int) -> bool:
        low, high = wilson_interval(round(accuracy * total), total)
        return high - low > width

    most = 1
    while wide(most):
        most *= 2
    fewest = most // 2
    while most - fewest > 1:
        middle = (fewest + most) // 2
        fewest, most = (middle, most) if wide(middle) else (fewest, middle)
    return most


def domain_gap(first: ImageTable, second: ImageTable, seed: int = 0) -> dict[str, float]:
    """How well two sets of encoded images can be told apart, before anything is trained on them.

    A linear classifier learns from half of the images which set one is of, and is asked about the
    other half (Ben-David et al. 2010 measure domains so). Of each place it sees one image: frames
    of a place on both sides would give the answer away. first, second: tables with image_features.
    told_apart: 0.5 if nothing tells them apart, 1 if each is a world of its own; low, high: its
    Wilson interval. Far apart does not mean that the encoder sees nothing there, but that its old
    figures say nothing about it: measure. Raises ValueError for tables that are not encoded, or
    show fewer than 20 places.
    """
    rng = np.random.default_rng(seed)
    rows = [_row_of_each_place(table, rng) for table in (first, second)]
    count = min(map(len, rows))
    if count < 20:
        raise ValueError(f"the smaller set shows {count} places: give at least 20 of each")
    parts = [_pooled(table.image_features, np.sort(rng.permutation(chosen)[:count]))
             for table, chosen in zip((first, second), rows, strict=True)]
    values = np.concatenate(parts)                                      # (2 * count, dim)
    values = (values - values.mean(axis=0)) / (values.std(axis=0) + 1e-6)
    values = np.concatenate([values, np.ones((len(values), 1))], axis=1)
    sides = np.repeat([-1.0, 1.0], count)
    order = rng.permutation(2 * count)
    learn, ask = order[:count], order[count:]
    # Ridge regression in the space of the images, of which there may be fewer than dimensions.
    kernel = values[learn] @ values[learn].T + values.shape[1] * np.eye(count)
    weights = values[learn].T @ np.linalg.solve(kernel, sides[learn])
    right = int((np.sign(values[ask] @ weights) == sides[ask]).sum())
    low, high = wilson_interval(right, count)
    return {"images": 2 * count, "told_apart": right / count, "low": low, "high": high}


def licences(folder: str | Path) -> pd.DataFrame:
    """What the files of a folder say of its licence: file, says (the first such line of each).

    Looks into licence, readme, credits and metadata files at the top and one level below. An empty
    table does not mean that everything is allowed: without a licence, nothing is.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"{folder}: is not a folder")
    rows = []
    for file in sorted([*folder.glob("*"), *folder.glob("*/*")]):
        if not file.is_file() or not _STATES.search(file.name) or file.stat().st_size > 10_000_000:
            continue
        lines = file.read_bytes().decode("utf-8", "replace").splitlines()
        if file.suffix in (".csv", ".tsv"):     # what its columns are called says nothing
            lines = lines[1:]
        said = next((" ".join(line.split()) for line in lines if _LICENCE.search(line)), None)
        if said:
            rows.append((str(file.relative_to(folder)), said[:120]))
    return pd.DataFrame(rows, columns=["file", "says"])


def checklist(train: TaskDataset, test: TaskDataset, folder: str | Path | None = None
              ) -> pd.DataFrame:
    """The questions of this lesson, asked of a data set of your own: question, found, to_do.

    folder: where its files lie, for the licence. to_do is empty if nothing needs to be done.
    """
    return pd.DataFrame([_leakage(train, test), _guessed(test), _balanced(train), _enough(test),
                         _licence(folder)])


def _leakage(train: TaskDataset, test: TaskDataset) -> Mapping[str, str]:
    pairs = near_duplicates(train.table, test.table)
    first = "" if pairs.empty else f", as {pairs['first'][0]} and {pairs['second'][0]}"
    return {"question": "Are test images in training?",
            "found": f"{len(pairs)} pairs look the same{first}",
            "to_do": "look at each pair; keep both on one side" if len(pairs) else ""}


def _guessed(test: TaskDataset) -> Mapping[str, str]:
    table = guessing(test).sort_values("share", ascending=False, kind="stable")
    row = table.iloc[0]
    return {"question": "What does guessing score?",
            "found": "; ".join(f"{r.task} of {r.num_images}: {r.share:.0%}"
                               for r in table.head(3).itertuples()),
            "to_do": f"compare every score of {row['task']} with {row['share']:.0%}"
                     if row["share"] > MOST_GUESSED else ""}


def _balanced(train: TaskDataset) -> Mapping[str, str]:
    table = balance(train)
    rare = table[table["samples"] < 5]
    return {"question": "Are all answers learnt from enough samples?",
            "found": f"{len(rare)} of {len(table)} answers have fewer than 5 training samples",
            "to_do": "add samples of rare answers, or report them apart" if len(rare) else ""}


def _enough(test: TaskDataset) -> Mapping[str, str]:
    smallest = guessing(test)["samples"].min()
    images, wanted = len(test.table), samples_needed(0.1)
    independent = min(smallest, images)
    to_do = "state intervals; small differences are not known" if independent < wanted else ""
    if independent < samples_needed(FAR_TOO_WIDE):
        to_do = f"add images: with {independent}, an interval can be more than " \
                f"{100 * FAR_TOO_WIDE:.0f} points wide"
    return {"question": "Is the test large enough?",
            "found": f"{images} images, at least {smallest} samples of each task; an interval 10 "
                     f"points wide needs up to {wanted}",
            "to_do": to_do}


def _licence(folder: str | Path | None) -> Mapping[str, str]:
    table = licences(folder) if folder is not None else pd.DataFrame(columns=["file", "says"])
    found = "; ".join(f"{row.file}: {row.says}" for row in table.head(2).itertuples())
    return {"question": "May it be used, and shared?", "found": found or "no file says so",
            "to_do": "read it: images and labels may differ" if found
            else "ask whoever made it; without a licence nothing is allowed"}


def _answers(samples: TaskDataset) -> pd.DataFrame:
    table = pd.DataFrame([(r.task, r.num_images, r.answer) for r in samples.recipes
                          if r.answer is not None], columns=["task", "num_images", "answer"])
    if table.empty:
        raise ValueError(f"{samples.table.name}: no sample has an answer")
    return table


def _row_of_each_place(table: ImageTable, rng: np.random.Generator) -> list[int]:
    if table.image_features is None:
        raise ValueError(f"{table.name}: is not encoded: set table.image_features = "
                         "encode_table(table, model, processor)")
    rows = {table.truth.site_of(row): row for row in rng.permutation(len(table)).tolist()}
    return list(rows.values())


def _pooled(features: ImageFeatures, rows: np.ndarray) -> np.ndarray:
    """Mean and spread over the patches of each image: (rows, 2 * vision_dim)."""
    values = features[rows.tolist()].float().cpu().numpy()              # (rows, patches, dim)
    return np.concatenate([values.mean(axis=1), values.std(axis=1)], axis=1)
