"""Questions about images by their names: `<image_2>` in a prompt means the second image."""

from __future__ import annotations

import numpy as np

from vlm_utils import tiny_earth
from vlm_utils.architecture import identifier
from vlm_utils.datasets.one_image import SIZES, question
from vlm_utils.datasets.truth import Recipe, Truth, distinct_rows, images_first, text_among_images
from vlm_utils.tiny_earth import CELLS, KINDS, Feature, Scene

MOST_ASKED = 4  # images that one question of `each` names


def refer(truth: Truth, rng: np.random.Generator, num_images: int) -> Recipe:
    """A question about image k, its name before, between or after the images."""
    rows = distinct_rows(truth, rng, num_images)
    k = int(rng.integers(num_images))
    if truth.has_scenes:
        text, answer = question(truth.scenes[rows[k]], rng, identifier(k + 1))
    else:
        captions = truth.captions[rows[k]]
        text = f"Describe {identifier(k + 1)}."
        answer = captions[rng.integers(len(captions))] if captions else None
    return Recipe(tuple(rows), text_among_images(text, rng, num_images), answer, "refer")


def cover(truth: Truth, rng: np.random.Generator, num_images: int) -> Recipe:
    """The land cover of image k: what a name alone decides, without a place in the image.

    The easiest of refer's questions, and rare among them. Training on more of it teaches first to
    find the image, which the harder ones need too.
    """
    rows = distinct_rows(truth, rng, num_images)
    k = int(rng.integers(num_images))
    text = f"What is the land cover of {identifier(k + 1)}?"
    answer = f"{truth.scenes[rows[k]].cover.capitalize()}."
    return Recipe(tuple(rows), text_among_images(text, rng, num_images), answer, "cover")


def each(truth: Truth, rng: np.random.Generator, num_images: int) -> Recipe:
    """One question about several images by name; the answer names each and says what it shows.

    "<image_3> lake, <image_1> nothing.": every answer stands right behind its image's name. Where
    words stand between, a small model is slow to join name and place: it learns one or the other.
    """
    if num_images < 2:
        raise ValueError("each asks about several images: give it at least 2")
    rows = distinct_rows(truth, rng, num_images)
    aspect = rng.choice(["what", "where", "size", "cover"], p=[0.5, 0.2, 0.2, 0.1])
    thing = None
    if aspect == "what":
        thing = CELLS[rng.integers(len(CELLS))]
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
    return Recipe(tuple(rows), text_among_images(f"{text} {listed}?", rng, num_images),
                  f"{answer}.", "each")


def inventory(truth: Truth, rng: np.random.Generator, num_images: int = 1) -> Recipe:
    """Everything in one image, with sizes: what captions do not say, but a change may be.

    Of several images, the one that the prompt names.
    """
    rows = distinct_rows(truth, rng, num_images)
    k = int(rng.integers(num_images))
    scene = truth.scenes[rows[k]]
    things = [_with_size(f) for f in scene.features]
    listed = f"{', '.join(things[:-1])} and {things[-1]}" if len(things) > 1 else "".join(things)
    land = tiny_earth.cover_phrase(scene.cover)
    within = f" in {identifier(k + 1)}" if num_images > 1 else ""
    return Recipe(tuple(rows), images_first(num_images, f"List everything{within}."),
                  f"{land[0].upper()}{land[1:]} with {listed or 'nothing else in it'}.",
                  "inventory")


def _with_size(feature: Feature) -> str:
    """ "a small lake in the top left"; "a river across the top": only some kinds have sizes."""
    if feature.kind not in tiny_earth.SIZED_KINDS:
        return tiny_earth.phrase(feature)
    size = SIZES[feature.size].rstrip(".").lower()
    return f"a {size} {feature.kind} {tiny_earth.where(feature.place)}"


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
