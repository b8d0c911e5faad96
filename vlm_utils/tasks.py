"""Questions about several images, with answers from the ground truth.

A recipe names images by their rows in an image table; no pixel is touched here. Two kinds of
truth are known: scenes (TinyEarth: what stands where, in each frame of a place) and captions
(Flickr8k, a folder of the user's own). Where an image has neither, the answer is None.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from vlm_utils import tiny_earth
from vlm_utils.processor import IMAGE_TOKEN, identifier
from vlm_utils.tiny_earth import KINDS, LINE_PLACES, PLACES, Scene

COMPARE_PROMPT = "What changed?"
SEQUENCE_PROMPT = "What happens over time?"
DESCRIBE_PROMPT = "Describe the image."
SIZES = {1: "Small.", 2: "Large."}
MOST_ASKED = 4  # images that one question of `each` names


@dataclass(frozen=True)
class Recipe:
    """A sample before its images are loaded: rows of the image table, prompt, answer, task."""

    rows: tuple[int, ...]
    prompt: str
    answer: str | None
    task: str


@dataclass(eq=False)
class Truth:
    """What is known of each row of an image table.

    scenes: a Scene or None per row. captions: a list of texts per row, empty where none is known.
    places: rows of one place, in order of time, for each place.
    """

    scenes: Sequence[Scene | None]
    captions: Sequence[list[str]]
    places: Sequence[tuple[int, ...]]

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

    @cached_property
    def places_by_length(self) -> dict[int, list[tuple[int, ...]]]:
        """For each number of images, the places that have at least so many."""
        longest = max((len(rows) for rows in self.places), default=0)
        return {count: [rows for rows in self.places if len(rows) >= count]
                for count in range(1, longest + 1)}


def with_article(kind: str) -> str:
    return f"{'an' if kind[0] in 'aeiou' else 'a'} {kind}"


def images_first(num_images: int, text: str) -> str:
    return IMAGE_TOKEN * num_images + text


_ANSWER_FORMS = {  # what an answer about scenes looks like, whether or not it is true
    "compare": re.compile(
        r"Nothing changed\.|An? .+ appeared .+\.|The .+ (disappeared|grew|shrank)\.|"
        r"The .+ moved from .+ to .+\.|The .+ became .+\."),
    "sequence": re.compile(
        r"Nothing changes\.|The .+ (grows|shrinks)\.|The .+ moves from .+ to .+\.|"
        r"An? .+ appears .+ in <image_\d>( and disappears in <image_\d>)?\.|"
        r"The .+ disappears in <image_\d>( and reappears in <image_\d>)?\.|"
        r"The .+ becomes .+ in <image_\d>\."),
}


def is_free_text(task: str, truth: Truth) -> bool:
    """Are there many right answers to a question of this task, and not one that can be demanded?

    So it is for descriptions, and without scenes for all but selections: any caption of an image
    is a right answer.
    """
    return task == "describe" or (not truth.has_scenes and task != "select")


def caption_pair(first: str, second: str) -> str:
    """The answer to a comparison of two images of which only captions are known."""
    return f"{identifier(1)} {_as_phrase(first)}; {identifier(2)} {_as_phrase(second)}."


def is_answer(task: str, text: str, like: str) -> bool:
    """Has a text the form that the true answer `like` has? Without a form: is there any text?"""
    form = _ANSWER_FORMS.get(task)
    if form and form.fullmatch(like):
        return bool(form.fullmatch(text))
    return bool(text.strip())


# --- one image -------------------------------------------------------------------------------

def describe(truth: Truth, rng: np.random.Generator, num_images: int = 1) -> Recipe:
    """Describe one image; the answer is one of its captions."""
    row = int(rng.integers(len(truth.scenes)))
    captions = truth.captions[row]
    answer = captions[rng.integers(len(captions))] if captions else None
    return Recipe((row,), images_first(1, DESCRIBE_PROMPT), answer, "describe")


def question(scene: Scene, rng: np.random.Generator, image: str = "") -> tuple[str, str]:
    """A question about one scene and its answer; image is the name of the one meant, if any."""
    of, within = (f" of {image}", f" in {image}") if image else ("", "")
    kind_of_question = rng.choice(["what", "where", "is there", "cover", "size"],
                                  p=[0.25, 0.25, 0.2, 0.05, 0.25])
    features = scene.features
    if kind_of_question == "cover":
        return f"What is the land cover{of}?", f"{scene.cover.capitalize()}."
    if kind_of_question == "what":
        points = [f for f in features if f.place in PLACES]
        free = tiny_earth.free_places(scene)
        if points and (rng.random() < 0.7 or not free):
            feature = points[rng.integers(len(points))]
            return (f"What is {tiny_earth.where(feature.place)}{of}?",
                    f"{with_article(feature.kind).capitalize()}.")
        return f"What is {tiny_earth.where(free[rng.integers(len(free))])}{of}?", "Nothing."
    sized = [f for f in features if f.kind in tiny_earth.SIZED_KINDS]
    if kind_of_question == "size" and sized:
        feature = sized[rng.integers(len(sized))]
        return f"How large is the {feature.kind}{within}?", SIZES[feature.size]
    if kind_of_question == "where" and features:
        feature = features[rng.integers(len(features))]
        return (f"Where is the {feature.kind}{within}?",
                f"{tiny_earth.where(feature.place).capitalize()}.")
    if features and rng.random() < 0.5:  # no scene holds two of a kind: elsewhere it is not
        feature = features[rng.integers(len(features))]
        there = rng.random() < 0.5
        if not there:
            places = LINE_PLACES if feature.place in LINE_PLACES else PLACES
            elsewhere = [place for place in places if place != feature.place]
            feature = replace(feature, place=elsewhere[rng.integers(len(elsewhere))])
        return f"Is there {tiny_earth.phrase(feature)}{of}?", "Yes." if there else "No."
    kinds = {f.kind for f in features}
    if features and rng.random() < 0.5:
        kind = features[rng.integers(len(features))].kind
    else:
        kind = str(rng.choice([k for k in KINDS if k not in kinds]))
    return f"Is there {with_article(kind)}{within}?", "Yes." if kind in kinds else "No."


def ask(truth: Truth, rng: np.random.Generator, num_images: int = 1) -> Recipe:
    """A question about a single image, without its name."""
    row = int(rng.integers(len(truth.scenes)))
    text, answer = question(truth.scenes[row], rng)
    return Recipe((row,), images_first(1, text), answer, "ask")


def inventory(truth: Truth, rng: np.random.Generator, num_images: int = 1) -> Recipe:
    """Everything in one image with its size: what captions do not say, but a change may be.

    Of several images, the one that the prompt names.
    """
    rows = _distinct_rows(truth, rng, num_images)
    k = int(rng.integers(num_images))
    scene = truth.scenes[rows[k]]
    things = [f"{SIZES[f.size][:-1].lower()} {f.kind} {tiny_earth.where(f.place)}"
              for f in scene.features]
    within = f" in {identifier(k + 1)}" if num_images > 1 else ""
    return Recipe(tuple(rows), images_first(num_images, f"List everything{within}."),
                  f"{scene.cover.capitalize()}: {', '.join(things) or 'nothing else'}.",
                  "inventory")


# --- several images --------------------------------------------------------------------------

def refer(truth: Truth, rng: np.random.Generator, num_images: int) -> Recipe:
    """A question about image k, its name before, between or after the images."""
    rows = _distinct_rows(truth, rng, num_images)
    k = int(rng.integers(num_images))
    if truth.has_scenes:
        text, answer = question(truth.scenes[rows[k]], rng, identifier(k + 1))
    else:
        captions = truth.captions[rows[k]]
        text = f"Describe {identifier(k + 1)}."
        answer = captions[rng.integers(len(captions))] if captions else None
    return Recipe(tuple(rows), _text_among_images(text, rng, num_images), answer, "refer")


def cover(truth: Truth, rng: np.random.Generator, num_images: int) -> Recipe:
    """The land cover of image k: what a name alone decides, without a place in the image.

    The easiest of refer's questions, and rare among them. Training on more of it teaches first to
    find the image, which the harder ones need too.
    """
    rows = _distinct_rows(truth, rng, num_images)
    k = int(rng.integers(num_images))
    text = f"What is the land cover of {identifier(k + 1)}?"
    answer = f"{truth.scenes[rows[k]].cover.capitalize()}."
    return Recipe(tuple(rows), _text_among_images(text, rng, num_images), answer, "cover")


def each(truth: Truth, rng: np.random.Generator, num_images: int) -> Recipe:
    """One question about several images by name; the answer names each and says what it shows.

    "<image_3> lake, <image_1> nothing.": every answer stands right behind its image's name. Where
    words stand between, a small model is slow to join name and place: it learns one or the other.
    """
    if num_images < 2:
        raise ValueError("each asks about several images: give it at least 2")
    rows = _distinct_rows(truth, rng, num_images)
    aspect = rng.choice(["what", "where", "size", "cover"], p=[0.5, 0.2, 0.2, 0.1])
    thing = None
    if aspect == "what":
        thing = PLACES[rng.integers(len(PLACES))]
        text = f"What is {tiny_earth.where(thing)} of"
    elif aspect == "cover":
        text = "What is the land cover of"
    else:
        kinds = KINDS if aspect == "where" else tiny_earth.SIZED_KINDS
        thing = str(rng.choice(sorted(kinds)))
        having = truth.index["kind", thing]
        for i in range(num_images):     # few images have it by chance
            row = int(having[rng.integers(len(having))]) if having else rows[i]
            if rng.random() < 0.7 and row not in rows:
                rows[i] = row
        text = f"Where is the {thing} in" if aspect == "where" else f"How large is the {thing} in"
    asked = rng.permutation(num_images)[:rng.integers(2, min(num_images, MOST_ASKED) + 1)]
    names = [identifier(int(k) + 1) for k in asked]
    listed = f"{', '.join(names[:-1])} and {names[-1]}"
    said = (_aspect_of(truth.scenes[rows[k]], aspect, thing) for k in asked)
    answer = ", ".join(f"{name} {what}" for name, what in zip(names, said, strict=True))
    return Recipe(tuple(rows), _text_among_images(f"{text} {listed}?", rng, num_images),
                  f"{answer}.", "each")


def select(truth: Truth, rng: np.random.Generator, num_images: int) -> Recipe:
    """Which of the images fits a description that is true of exactly one of them?

    From scenes: a feature, a feature at a place, a cover or a whole caption, with distractors
    that share what the description does not decide. From captions: one of the image's captions.
    """
    if truth.has_scenes:
        rows, position, text = _select_by_scene(truth, rng, num_images)
    else:
        rows = _distinct_rows(truth, rng, num_images)
        position = int(rng.integers(num_images))
        captions = truth.captions[rows[position]]
        if not captions:
            raise ValueError(f"row {rows[position]} has no caption: selection needs one for each "
                             "image; add a metadata.jsonl with caption_0 to the folder")
        text = _as_phrase(captions[rng.integers(len(captions))])
    return Recipe(tuple(rows), images_first(num_images, f"Which image shows {text}?"),
                  identifier(position + 1), "select")


def compare(truth: Truth, rng: np.random.Generator, num_images: int = 2) -> Recipe:
    """What changed between two images of one place? A fifth of the answers is "nothing".

    From captions alone there is no place seen twice: the answer says what each image shows.
    """
    if truth.has_scenes:
        return _compare_by_scene(truth, rng)
    rows = _distinct_rows(truth, rng, 2)
    if not truth.captions[rows[0]] or not truth.captions[rows[1]]:
        return Recipe(tuple(sorted(rows)), images_first(2, COMPARE_PROMPT), None, "compare")
    first, second = (truth.captions[r][rng.integers(len(truth.captions[r]))] for r in rows)
    return Recipe(tuple(rows), images_first(2, "What is the difference?"),
                  caption_pair(first, second), "compare")


def sequence(truth: Truth, rng: np.random.Generator, num_images: int) -> Recipe:
    """What happens over several frames of one place, forwards or backwards in time?"""
    places = truth.places_by_length.get(num_images)
    if not places:
        longest = max(truth.places_by_length, default=0)
        raise ValueError(f"a sequence of {num_images} images was asked for and the longest of "
                         f"this data set has {longest}")
    rows = places[rng.integers(len(places))]
    kept = np.sort(rng.choice(len(rows), num_images, replace=False))
    rows = tuple(rows[i] for i in kept)
    prompt = images_first(num_images, SEQUENCE_PROMPT)
    if not truth.has_scenes:
        return Recipe(rows, prompt, None, "sequence")
    if rng.random() < 0.5:
        rows = rows[::-1]
    answer = tiny_earth.describe_sequence([truth.scenes[r] for r in rows])
    return Recipe(rows, prompt, answer, "sequence")


TASKS: dict[str, Callable[..., Recipe]] = {
    "describe": describe, "ask": ask, "select": select, "compare": compare,
    "sequence": sequence, "refer": refer, "cover": cover, "each": each,
    "inventory": inventory}


# --- helpers ---------------------------------------------------------------------------------

def _distinct_rows(truth: Truth, rng: np.random.Generator, count: int) -> list[int]:
    total = len(truth.scenes)
    if total < count:
        raise ValueError(f"a sample of {count} images was asked for and there are {total}")
    return [int(r) for r in rng.choice(total, count, replace=False)]


def _text_among_images(text: str, rng: np.random.Generator, num_images: int) -> str:
    """A prompt with its text before, between or, mostly, after the images."""
    before = int(rng.choice([0, num_images, rng.integers(num_images + 1)], p=[0.2, 0.6, 0.2]))
    return IMAGE_TOKEN * before + text + IMAGE_TOKEN * (num_images - before)


def _aspect_of(scene: Scene, aspect: str, thing: str | None) -> str:
    """What `each` asks of one scene, in as few words as tell it."""
    if aspect == "cover":
        return scene.cover
    if aspect == "what":
        return next((f.kind for f in scene.features if f.place == thing), "nothing")
    feature = next((f for f in scene.features if f.kind == thing), None)
    if feature is None:
        return "nowhere" if aspect == "where" else "none"
    if aspect == "where":
        return tiny_earth.where(feature.place).removeprefix("in the ")
    return SIZES[feature.size][:-1].lower()


def _as_phrase(caption: str) -> str:
    caption = caption.strip().rstrip(".?!")
    return caption[:1].lower() + caption[1:]


def _compare_by_scene(truth: Truth, rng: np.random.Generator) -> Recipe:
    wants_change = rng.random() >= 0.2
    while True:
        rows = truth.places[rng.integers(len(truth.places))]
        pairs = [(a, b) for i, a in enumerate(rows) for b in rows[i + 1:]
                 if (truth.scenes[a] != truth.scenes[b]) == wants_change]
        if pairs:
            break
    first, second = pairs[rng.integers(len(pairs))]
    if rng.random() < 0.5:
        first, second = second, first
    answer = tiny_earth.describe_change(truth.scenes[first], truth.scenes[second])
    return Recipe((first, second), images_first(2, COMPARE_PROMPT), answer, "compare")


def _select_by_scene(truth: Truth, rng: np.random.Generator, num_images: int):
    index = truth.index
    while True:
        target = int(rng.integers(len(truth.scenes)))
        scene = truth.scenes[target]
        style = rng.choice(["feature", "place", "cover", "caption"], p=[0.3, 0.35, 0.1, 0.25])
        if style == "cover":
            text, is_true = scene.cover, lambda s, c=scene.cover: s.cover == c
            near = [index["kind", f.kind] for f in scene.features]
        elif style == "caption":
            captions = truth.captions[target]
            text = _as_phrase(captions[rng.integers(len(captions))])
            facts = tiny_earth.scene_facts(scene)
            # A caption is true of every image that shows all it says, whatever else that shows.
            is_true = lambda s, f=facts: f <= tiny_earth.scene_facts(s)  # noqa: E731
            near = [index["cover", scene.cover]] + [
                index["feature", f.kind, f.place] for f in scene.features]
        elif not scene.features:
            continue
        else:
            feature = scene.features[rng.integers(len(scene.features))]
            near = [index["cover", scene.cover], index["place", feature.place]]
            if style == "feature":
                text = with_article(feature.kind)
                is_true = lambda s, k=feature.kind: any(f.kind == k for f in s.features)  # noqa: E731
            else:
                text = tiny_earth.phrase(feature)
                near.append(index["kind", feature.kind])
                is_true = lambda s, k=feature.kind, p=feature.place: any(  # noqa: E731
                    f.kind == k and f.place == p for f in s.features)
        rows = _distractors(truth, rng, num_images - 1, near, is_true, target)
        if rows is not None:
            position = int(rng.integers(num_images))
            return rows[:position] + [target] + rows[position:], position, text


def _distractors(truth, rng, count, near, is_true, target) -> list[int] | None:
    """Rows of which the description is false: mostly ones that share something with the target."""
    rows: list[int] = []
    for _ in range(200):
        if len(rows) == count:
            return rows
        pool = near[rng.integers(len(near))] if near and rng.random() < 0.75 else None
        row = int(pool[rng.integers(len(pool))] if pool else rng.integers(len(truth.scenes)))
        if row != target and row not in rows and not is_true(truth.scenes[row]):
            rows.append(row)
    return None


