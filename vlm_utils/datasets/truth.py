"""What is known of the images of a table, and the recipe of a sample.

A recipe names images by their rows in an image table; no pixel is touched here. Two kinds of
truth are known: scenes (TinyEarth: what stands where, in each frame of a place) and captions
(Flickr8k, a folder of the user's own). Where an image has neither, the answer is None.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from vlm_utils.architecture import IMAGE_TOKEN
from vlm_utils.tiny_earth import Conditions, Scene


@dataclass(frozen=True)
class Recipe:
    """A sample before its images are loaded: rows of the image table, prompt, answer, task."""

    rows: tuple[int, ...]
    prompt: str
    answer: str | None
    task: str

    @property
    def num_images(self) -> int:
        return len(self.rows)


@dataclass(eq=False)
class Truth:
    """What is known of each row of an image table.

    scenes: a Scene or None per row. captions: a list of texts per row, empty where none is known.
    sites: for each place on the ground, the rows that show it, in order of time. A row in no site
    is a site of its own. dates: an ISO date per row ("2019-03-17"), "" if it is not known; or
    nothing at all. conditions: how each image was taken (clouds, season); or nothing at all.
    """

    scenes: Sequence[Scene | None]
    captions: Sequence[list[str]]
    sites: Sequence[tuple[int, ...]]
    dates: Sequence[str] = ()
    conditions: Sequence[Conditions] = ()

    @property
    def has_scenes(self) -> bool:
        return len(self.scenes) > 0 and self.scenes[0] is not None

    @property
    def has_captions(self) -> bool:
        return len(self.captions) > 0 and bool(self.captions[0])

    @cached_property
    def index(self) -> dict[tuple, list[int]]:
        """Rows by cover, by kind, by place and by kind at a place: where to find distractors."""
        rows = defaultdict(list)
        for row, scene in enumerate(self.scenes):
            rows["cover", scene.cover].append(row)
            for f in scene.features:
                rows["kind", f.kind].append(row)
                rows["place", f.place].append(row)
                rows["feature", f.kind, f.place].append(row)
        return rows

    def site_of(self, row: int) -> int:
        """The number of a row's site; a row that is in none has a number of its own."""
        return self._sites_of_rows.get(row, len(self.sites) + row)

    @cached_property
    def _sites_of_rows(self) -> dict[int, int]:
        return {row: site for site, rows in enumerate(self.sites) for row in rows}

    def alike(self, row: int) -> set[int]:
        """The rows that share a caption with a row, and the row: words do not tell them apart."""
        keys = {_key(text) for text in self.captions[row]}
        if len(keys) == 1:                      # as in class folders: no copy of a large set
            return self._rows_by_phrase[keys.pop()]
        return {row}.union(*(self._rows_by_phrase[key] for key in keys))

    def rows_of_each_kind(self) -> list[int]:
        """One row for each list of captions that occurs."""
        return list({tuple(captions): row for row, captions in enumerate(self.captions)}.values())

    @cached_property
    def most_to_select(self) -> int:
        """How many images a selection may have if captions are to say which one is right."""
        if not self.has_captions:
            return 0
        return len(self.captions) + 1 - min(
            len(self.alike(row)) for row in self.rows_of_each_kind())

    @cached_property
    def _rows_by_phrase(self) -> dict[str, set[int]]:
        rows = defaultdict(set)
        for row, captions in enumerate(self.captions):
            for text in captions:
                rows[_key(text)].add(row)
        return rows

    @cached_property
    def sites_by_length(self) -> dict[int, list[tuple[int, ...]]]:
        """For each number of images, the sites that have at least that many."""
        longest = max((len(rows) for rows in self.sites), default=0)
        return {count: [rows for rows in self.sites if len(rows) >= count]
                for count in range(1, longest + 1)}


def images_first(num_images: int, text: str) -> str:
    return IMAGE_TOKEN * num_images + text


def text_among_images(text: str, rng: np.random.Generator, num_images: int) -> str:
    """A prompt with its text before, between or, mostly, after the images."""
    before = int(rng.choice([0, num_images, rng.integers(num_images + 1)], p=[0.2, 0.6, 0.2]))
    return IMAGE_TOKEN * before + text + IMAGE_TOKEN * (num_images - before)


def distinct_rows(truth: Truth, rng: np.random.Generator, count: int) -> list[int]:
    total = len(truth.scenes)
    if total < count:
        raise ValueError(f"a sample of {count} images was asked for and there are {total}")
    return [int(r) for r in rng.choice(total, count, replace=False)]


def as_phrase(caption: str) -> str:
    """A caption as it stands within a sentence: without its full stop, begun with a small letter.

    A word of capitals (I, UN, USA) stays as it is; "A dog" does not.
    """
    caption = caption.strip().rstrip(".?! ")            # Flickr8k writes "A dog runs ."
    first = caption.split(" ", 1)[0]
    if first == "I" or (len(first) > 1 and first.isupper()):
        return caption
    return caption[:1].lower() + caption[1:]


def _key(caption: str) -> str:
    """A caption as it is compared: case and full stop make no difference."""
    return as_phrase(caption).casefold()
