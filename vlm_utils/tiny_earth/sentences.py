"""What TinyEarth says of its scenes: captions, changes, and the facts in a text.

The forms of answers stand beside the sentences that they must match.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from vlm_utils.tiny_earth.scenes import (
    CELLS,
    COVERS,
    KINDS,
    LINE_KINDS,
    LINE_PLACES,
    Feature,
    Scene,
)


def phrase(feature: Feature) -> str:
    """A feature with its place: "a lake in the top left", "a river across the top"."""
    return f"{_article(feature.kind)} {feature.kind} {where(feature.place)}"


def where(place: str) -> str:
    """A place with its preposition: "in the top left"; a line has its own: "across the top"."""
    return place if place in LINE_PLACES else f"in the {place}"


def captions(scene: Scene) -> list[str]:
    """Five wordings of the same facts: the cover, each feature and its place, but no sizes.

    Each reads as a sentence of its own and, begun with a small letter, after "shows:".
    """
    cover, land, ground = scene.cover, cover_phrase(scene.cover), _GROUND[scene.cover]
    if not scene.features:
        texts = [f"{land} with nothing else in it", f"nothing but {ground}",
                 f"{land} seen from above, without any landmark",
                 f"{ground} from edge to edge", f"an empty {cover} scene"]
    else:
        things = [phrase(feature) for feature in scene.features]
        number = ("one landmark", "two landmarks", "three landmarks")[len(things) - 1]
        texts = [f"{land} with {_join(things)}",
                 f"{_join(things)} of {land}",
                 f"{land} seen from above, with {_join(things[1:] + things[:1])}",
                 f"{_join(things[::-1])}, surrounded by {ground}",
                 f"{with_article(cover)} scene with {number}, {_join(things[::-1])}"]
    return [f"{text[0].upper()}{text[1:]}." for text in texts]


def facts(text: str) -> frozenset:
    """Read the facts out of a caption, also out of one that a model wrote.

    Returns ("cover", name) for the first cover named, and ("feature", kind, place) for each kind
    that has a place. In each clause a kind belongs to the place after it, or before it where
    the clause names a place first. A kind or place left alone is no fact.
    """
    text = " ".join(text.lower().replace("-", " ").split())
    found = {("cover", match) for match in _COVER_WORDS.findall(text)[:1]}
    for clause in re.split(r"[.;:]", text):
        waiting = {}
        for match in _FEATURE_WORDS.finditer(clause):
            waiting[match.lastgroup] = match[match.lastgroup]
            if len(waiting) == 2:
                found.add(("feature", waiting["kind"], waiting["place"]))
                waiting = {}
    return frozenset(found)


def scene_facts(scene: Scene) -> frozenset:
    """The facts that every caption of a scene states, in the form that `facts` returns."""
    placed = {("feature", feature.kind, feature.place) for feature in scene.features}
    return frozenset({("cover", scene.cover)} | placed)


def describe_change(before: Scene, after: Scene) -> str:
    """What changed between two dates: "The lake in the top left grew.", "Nothing changed.".

    Raises ValueError, naming the changes, if more than one thing changed.
    """
    changes = []
    if before.cover != after.cover:
        changes.append(f"{_ground(before.cover)} became {cover_phrase(after.cover)}.")
    for old, new in timelines([before, after]):
        if old is None:
            article = _article(new.kind).capitalize()
            changes.append(f"{article} {new.kind} appeared {where(new.place)}.")
        elif new is None:
            changes.append(f"{_name(old)} disappeared.")
        else:
            if old.place != new.place:
                changes.append(f"The {old.kind} moved {_way(old, new)}.")
            if old.size != new.size:
                changes.append(f"{_name(old)} {'grew' if new.size > old.size else 'shrank'}.")
    return _only(changes, "Nothing changed.")


def describe_sequence(scenes: Sequence[Scene]) -> str:
    """What happens over time; <image_k> is the first image that shows the new state.

    Works on the scenes of a sequence, on any of them in order, and on them reversed. Raises
    ValueError if nothing is given, if more than one thing changes, or if one thing changes in a
    way that has no wording (a lake that grows and shrinks).
    """
    if not scenes:
        raise ValueError("a sequence needs at least one scene")
    changes = []
    covers, starts = runs([scene.cover for scene in scenes])
    if len(covers) == 2:
        changes.append(f"{_ground(covers[0])} becomes {cover_phrase(covers[1])} in "
                       f"{_image(starts[1])}.")
    elif len(covers) > 2:
        raise ValueError(f"no wording for a cover that goes {' -> '.join(covers)}")
    changes += [_happening(timeline) for timeline in timelines(scenes)
                if len(set(timeline)) > 1]
    return _only(changes, "Nothing changes.")


def timelines(scenes: Sequence[Scene]) -> list[list[Feature | None]]:
    """For each thing that any scene shows: its Feature in each scene, or None where it is not.

    A point feature is known by its kind, a line, which cannot move, by its place as well.
    """
    shown = [{(feature.kind, feature.place if feature.kind in LINE_KINDS else None): feature
              for feature in scene.features} for scene in scenes]
    things = dict.fromkeys(thing for features in shown for thing in features)
    return [[features.get(thing) for features in shown] for thing in things]


def runs(values: Sequence) -> tuple[list, list[int]]:
    """The values with repeats in a row left out, and the index where each begins."""
    starts = [index for index, value in enumerate(values)
              if index == 0 or value != values[index - 1]]
    return [values[start] for start in starts], starts


def with_article(kind: str) -> str:
    """ "a lake", "an airport"."""
    return f"{_article(kind)} {kind}"


def cover_phrase(cover: str) -> str:
    """A cover as one says it: "a forest", "cropland", "open water"."""
    return _COVER_PHRASES[cover]


_BOX = r"\[\d{1,3}, \d{1,3}, \d{1,3}, \d{1,3}\]"
ANSWER_FORMS = {  # what an answer about scenes looks like, whether or not it is true
    "compare": re.compile(
        r"Nothing changed\.|An? .+ appeared .+\.|The .+ (disappeared|grew|shrank)\.|"
        r"The .+ moved from .+ to .+\.|The .+ became .+\."),
    "sequence": re.compile(
        r"Nothing changes\.|The .+ (grows|shrinks)\.|The .+ moves from .+ to .+\.|"
        r"An? .+ appears .+ in <image_\d+>( and disappears in <image_\d+>)?\.|"
        r"The .+ disappears in <image_\d+>( and reappears in <image_\d+>)?\.|"
        r"The .+ becomes .+ in <image_\d+>\."),
    "locate": re.compile(rf"{_BOX}|none"),
    "locate_change": re.compile(rf"{_BOX}|none"),
    "when": re.compile(r"<image_\d+>|none"),
    "date": re.compile(r"\d{4}-\d{2}"),
    "before": re.compile(r"In \d{4}-\d{2}, so (yes|no)\."),
    "months": re.compile(r"From \d{4}-\d{2} to \d{4}-\d{2}, so \d+\."),
}
_COVER_PHRASES = {"forest": "a forest", "cropland": "cropland", "grassland": "grassland",
                  "desert": "a desert", "snow": "a snow field", "mountain": "a mountain range",
                  "water": "open water"}
_GROUND = {cover: cover for cover in COVERS} | {"mountain": "mountains"}
_COVER_WORDS = re.compile(rf"\b({'|'.join(COVERS)})s?\b")
# The longest first, so that no name hides another that it begins.
_FEATURE_WORDS = re.compile(
    rf"\b(?:(?P<kind>{'|'.join(KINDS)})s?"
    rf"|(?P<place>{'|'.join(sorted(CELLS + LINE_PLACES, key=len, reverse=True))}))\b")


def _article(noun):
    return "an" if noun[0] in "aeiou" else "a"


def _join(parts):
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def _ground(cover):
    """The cover that is known already: "The forest", "The cropland"."""
    return f"The {_COVER_PHRASES[cover].removeprefix('a ')}"


def _name(feature):
    return f"The {feature.kind} {where(feature.place)}"


def _way(first, last):
    return f"from the {first.place} to the {last.place}"


def _image(frame):
    return f"<image_{frame + 1}>"


def _only(changes, nothing):
    if len(changes) > 1:
        raise ValueError(f"more than one thing changed: {' '.join(changes)}")
    return changes[0] if changes else nothing


def _happening(timeline):
    """One sentence on a feature that changes; timeline has its Feature, or None, per frame."""
    states, starts = runs(timeline)
    kind = next(state.kind for state in states if state)
    if None in states:
        feature = next(state for state in states if state)
        later = [_image(start) for start in starts[1:]]
        somewhere = f"{_article(kind).capitalize()} {kind} appears {where(feature.place)}"
        if states == [None, feature]:
            return f"{somewhere} in {later[0]}."
        if states == [None, feature, None]:
            return f"{somewhere} in {later[0]} and disappears in {later[1]}."
        if states == [feature, None]:
            return f"{_name(feature)} disappears in {later[0]}."
        if states == [feature, None, feature]:
            return f"{_name(feature)} disappears in {later[0]} and reappears in {later[1]}."
    elif len({state.size for state in states}) == 1:
        if states[0].place != states[-1].place:
            return f"The {kind} moves {_way(states[0], states[-1])}."
    elif len({state.place for state in states}) == 1:
        sizes = [state.size for state in states]
        if sizes in (sorted(sizes), sorted(sizes, reverse=True)):
            return f"{_name(states[0])} {'grows' if sizes[-1] > sizes[0] else 'shrinks'}."
    raise ValueError(f"no wording for a {kind} that goes {states}")
