"""Where and when: questions answered by a box, or by the image in which something happened.

Boxes are text, `[x1, y1, x2, y2]`, whole numbers from 0 to 100: per cent of the image's width and
height, as TEOChat writes them. What is not there, or did not happen, is answered with "none".
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from vlm_utils.architecture import identifier
from vlm_utils.datasets.changes import pair_of_site, rows_of_site
from vlm_utils.datasets.truth import Recipe, Truth, distinct_rows, images_first, text_among_images
from vlm_utils.tiny_earth import (
    KINDS,
    MOVING_KINDS,
    SIZED_KINDS,
    Box,
    Feature,
    Scene,
    cover_phrase,
    runs,
    timelines,
)

NONE = "none"  # the answer where nothing can be shown
WHOLE_IMAGE = (0, 0, 100, 100)
SHARE_OF_NONE = 0.2  # of the questions, about things that are not there or do not happen


def box_text(box: Box) -> str:
    """A box as the answers write it: "[12, 30, 40, 60]"."""
    return f"[{', '.join(map(str, box))}]"


def locate(truth: Truth, rng: np.random.Generator, num_images: int = 1) -> Recipe:
    """Where is a thing, as a box? Of several images, in the one that the prompt names.

    A quarter of the questions is about a kind of thing that the image does not show: a fifth of
    those about images that show something, and all about empty ones. Raises ValueError for scenes
    whose boxes are not known.
    """
    rows = distinct_rows(truth, rng, num_images)
    k = int(rng.integers(num_images))
    features = truth.scenes[rows[k]].features
    if features and rng.random() >= SHARE_OF_NONE:
        feature = features[rng.integers(len(features))]
        kind, answer = feature.kind, box_text(_known_box(feature))
    else:
        absent = [kind for kind in KINDS if kind not in {f.kind for f in features}]
        kind, answer = absent[rng.integers(len(absent))], NONE
    within = f" in {identifier(k + 1)}" if num_images > 1 else ""
    text = f"Where is the {kind}{within}? Give a box."
    return Recipe(tuple(rows), text_among_images(text, rng, num_images), answer, "locate")


def locate_change(truth: Truth, rng: np.random.Generator, num_images: int = 2) -> Recipe:
    """Where is the change between two images of one site, as a box? A fifth shows none.

    The box of what appeared, grew, shrank or moved is that in the second image, the box of what
    disappeared that in the first. Another land cover changes the whole image: [0, 0, 100, 100].
    """
    first, second = pair_of_site(truth, rng)
    box = changed_box(truth.scenes[first], truth.scenes[second])
    return Recipe((first, second), images_first(2, "What changed? Give a box."),
                  NONE if box is None else box_text(box), "locate_change")


def changed_box(before: Scene, after: Scene) -> Box | None:
    """The box of what changed between two scenes of a site, as `locate_change` asks; or None."""
    if before.cover != after.cover:
        return WHOLE_IMAGE
    for old, new in timelines([before, after]):
        if old != new:
            return _known_box(new or old)
    return None


def when(truth: Truth, rng: np.random.Generator, num_images: int) -> Recipe:
    """In which of several images of one site did something happen? Forwards or backwards.

    The answer names the first image that shows it; a fifth is about what did not happen. A move of
    several steps is asked for its first.
    """
    wants_moment = rng.random() >= SHARE_OF_NONE
    for _ in range(100):
        rows = rows_of_site(truth, rng, num_images)
        if rng.random() < 0.5:
            rows = rows[::-1]
        scenes = [truth.scenes[row] for row in rows]
        known = moments(scenes)
        if known or not wants_moment:
            break
    if known and wants_moment:
        what, frame = known[rng.integers(len(known))]
        answer = identifier(frame + 1)
    else:
        false = _what_did_not_happen(scenes, {what for what, _ in known})
        what, answer = false[rng.integers(len(false))], NONE
    text = f"In which image did {what}?"
    return Recipe(rows, images_first(num_images, text), answer, "when")


def moments(scenes: Sequence[Scene]) -> list[tuple[str, int]]:
    """What happens over scenes of one site: ("the road appear", 2) if frame 2, from 0, shows it."""
    found = []
    covers, starts = runs([scene.cover for scene in scenes])
    for old, new, start in zip(covers, covers[1:], starts[1:], strict=False):
        found.append((f"{_known(cover_phrase(old))} become {cover_phrase(new)}", start))
    for timeline in timelines(scenes):
        states, starts = runs(timeline)
        seen = False
        for old, new, start in zip(states, states[1:], starts[1:], strict=False):
            kind = f"the {(new or old).kind}"
            seen = seen or old is not None
            if old is None:
                found.append((f"{kind} {'reappear' if seen else 'appear'}", start))
            elif new is None:
                found.append((f"{kind} disappear", start))
            elif old.place != new.place:
                if not any(what.startswith(f"{kind} first move") for what, _ in found):
                    found.append((f"{kind} first move", start))
            else:
                found.append((f"{kind} {'grow' if new.size > old.size else 'shrink'}", start))
    return found


def _what_did_not_happen(scenes: Sequence[Scene], happened: set[str]) -> list[str]:
    """Events that one might ask for at a site, and that are none of those that happened."""
    kinds = sorted({feature.kind for scene in scenes for feature in scene.features})
    return _absent_events(kinds, happened) or _absent_events(
        [kind for kind in KINDS if kind not in kinds], happened)


def _absent_events(kinds, happened):
    possible = [f"the {kind} {verb}" for kind in kinds for verb in (
        "appear", "disappear", *(("grow", "shrink") if kind in SIZED_KINDS else ()),
        *(("first move",) if kind in MOVING_KINDS else ()))]
    return [what for what in possible  # what reappears has appeared, too
            if what not in happened and what.replace(" appear", " reappear") not in happened]


def _known(phrase):
    return f"the {phrase.removeprefix('a ')}"


def _known_box(feature: Feature) -> Box:
    if feature.box is None:
        raise ValueError(f"the box of the {feature.kind} is not known: give scenes with boxes, as "
                         "the tables hold them (tiny_earth.with_boxes)")
    return feature.box
