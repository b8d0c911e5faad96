"""Questions about one image."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from vlm_utils import tiny_earth
from vlm_utils.datasets.truth import Recipe, Truth, images_first
from vlm_utils.tiny_earth import CELLS, KINDS, LINE_PLACES, Scene, with_article

DESCRIBE_PROMPT = "Describe the image."
SIZES = {1: "Small.", 2: "Large."}


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
        points = [f for f in features if f.place in CELLS]
        free = tiny_earth.free_cells(scene.features)
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
            places = LINE_PLACES if feature.place in LINE_PLACES else CELLS
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
