"""Which of a user's captioned pictures to train on, and which to test on.

A picture must not be in both, nor a copy of it: saved again, resized, or under another name.
"""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from vlm_utils.sources.picture_folders import Content, Picture

LEAST = 4                   # pictures of each split that the lessons ask for
_SHARE = 4                  # one of so many is kept for testing
# Thumbnails of copies differ by less than this, in levels of 256, and in shares of their contrast.
# Measured on 4,000 EuroSAT tiles: no two of them are taken for copies, and of pictures saved again
# as JPEG (quality 75) all with any contrast are.
_LEVELS, _CONTRAST = 1.5, 0.1


def choose_rows(folder: Path, pictures: Sequence[Picture],
                contents: Sequence[Content]) -> dict[str, list[int]]:
    """The rows of each split: those of the folder's own splits, else a quarter is held out.

    Copies of a picture stay together. In the folder's own splits a training picture that is also
    in the test split is left out, with a warning. Raises ValueError if a split has fewer than 4.
    """
    groups = group_copies(contents)
    given = defaultdict(list)
    for row, picture in enumerate(pictures):
        given[picture.split].append(row)
    if set(given) <= {None, "train"}:
        parts = hold_out(pictures, groups)
    else:
        parts = _own_splits(folder, pictures, groups, given)
    if min(len(parts["train"]), len(parts["test"])) < LEAST:
        different = len(set(groups))
        note = "" if different == len(pictures) else f", {different} of them different"
        own = "" if given.keys() <= {None} else (
            f"; {len(parts['train'])} of train and {len(parts['test'])} of test can be used")
        raise ValueError(f"{folder} holds {len(pictures)} captioned images{note}: the lessons need "
                         f"at least {LEAST} to train on and {LEAST} others to test on{own}: add "
                         "images")
    return parts


def hold_out(pictures: Sequence[Picture], groups: Sequence[int]) -> dict[str, list[int]]:
    """A quarter of the pictures, at least 4, for testing: of every class, copies together.

    pictures: a class is what has the same first caption. groups: a number for each picture, the
    same for copies.
    """
    rng = np.random.default_rng(0)
    members = defaultdict(list)
    for row, group in enumerate(groups):
        members[group].append(row)
    classes, mixed = defaultdict(list), []
    for group in rng.permutation(list(members)):
        rows = members[int(group)]
        same = len({pictures[row].captions[0] for row in rows}) == 1
        (classes[pictures[rows[0]].captions[0]] if same else mixed).append(rows)
    # The classes in turn, each as often as it is large: every one has its share of the test. Two
    # from outside the largest come first: questions about it need images of something else.
    # Copies that are said to be of several classes tell nothing apart, and come last.
    largest = max(classes.values(), key=len, default=None)
    turns = sorted(((k + 0.5) / len(of_class), float(rng.random()), rows, of_class is largest)
                   for of_class in classes.values() for k, rows in enumerate(of_class))
    turns += [(1.0, 1.0, rows, True) for rows in mixed]
    first = [turn for turn in turns if not turn[-1]][:2]
    wanted = max(LEAST, len(pictures) // _SHARE)
    test: list[int] = []
    for _, _, rows, _ in first + [turn for turn in turns if turn not in first]:
        if len(test) + len(rows) <= wanted:
            test += rows
    train = sorted(set(range(len(pictures))) - set(test))
    return {"train": train, "validation": sorted(test), "test": sorted(test)}


def group_copies(contents: Sequence[Content]) -> list[int]:
    """A number for each picture: the same for equal contents, and for copies as the eye sees them.

    Thumbnails are compared; two pictures without any contrast, as of open sea, are copies only if
    their thumbnails are equal.
    """
    thumbnails = np.array([np.frombuffer(c.thumbnail, np.uint8) for c in contents], np.float32)
    colours = thumbnails.reshape(len(contents), -1, 3)
    contrast = colours.std(axis=1).mean(axis=1)                             # (pictures,)
    brightness = thumbnails.mean(axis=1)
    order = np.argsort(brightness, kind="stable")
    leaders = list(range(len(contents)))
    for place, i in enumerate(order):
        # Only pictures of nearly the same brightness can be copies: the others need no look.
        end = np.searchsorted(brightness[order], brightness[i] + _LEVELS, side="right")
        near = order[place + 1:end]
        distance = np.abs(thumbnails[near] - thumbnails[i]).mean(axis=1)
        for j in near[distance <= min(_LEVELS, _CONTRAST * contrast[i])]:
            _join(leaders, int(i), int(j))
    return [_leader(leaders, i) for i in range(len(contents))]


def _own_splits(folder: Path, pictures: Sequence[Picture], groups: Sequence[int],
                given: dict[str, list[int]]) -> dict[str, list[int]]:
    """The splits that a folder has; validation stands in for a test split that is missing."""
    if "train" not in given:
        raise ValueError(f"{folder}: has {' and '.join(sorted(given))}, and no train")
    parts, seen = {}, {}
    for name in ("test", "validation", "train"):        # what is measured on keeps its pictures
        parts[name] = [row for row in given.get(name, []) if groups[row] not in seen]
        for row in given.get(name, []):
            if groups[row] in seen:
                same = pictures[seen[groups[row]]]
                warnings.warn(f"{folder}: {pictures[row].file.name} is left out of {name}, for it "
                              f"is a copy of {same.file.name} in {same.split}", stacklevel=3)
        seen |= {groups[row]: row for row in parts[name]}
    parts["test"] = parts["test"] or parts["validation"]
    parts["validation"] = parts["validation"] or parts["test"]
    return parts


def _leader(leaders: list[int], i: int) -> int:
    while leaders[i] != i:
        leaders[i] = leaders[leaders[i]]
        i = leaders[i]
    return i


def _join(leaders: list[int], i: int, j: int) -> None:
    leaders[_leader(leaders, j)] = _leader(leaders, i)
