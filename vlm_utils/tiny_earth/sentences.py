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
    """Five wordings of the same facts: the cover, each feature and its place, but no sizes."""
    cover, land = scene.cover, _COVER_PHRASES[scene.cover]
    if not scene.features:
        return [f"A satellite image of {land} with nothing else in it.",
                f"Nothing stands out in this {cover} scene.",
                f"This is {land}, without any landmark.",
                f"Seen from above, {cover} reaches from edge to edge.",
                f"Cover: {cover}. Landmarks: none."]
    phrases = [phrase(feature) for feature in scene.features]
    placed = [f"{where(feature.place)} {_article(feature.kind)} {feature.kind}"
              for feature in scene.features]
    listed = [f"{feature.kind}, {feature.place}" for feature in scene.features]
    sentence = _join(phrases)
    return [f"A satellite image of {land} with {sentence}.",
            f"{sentence[0].upper()}{sentence[1:]} can be seen in this {cover} scene.",
            f"This is {land} that shows {_join(placed)}.",
            f"Seen from above, {cover} surrounds {_join(phrases[::-1])}.",
            f"Cover: {cover}. Landmarks: {'; '.join(listed)}."]


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
        changes.append(f"The {before.cover} became {after.cover}.")
    for old, new in _timelines([before, after]):
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
    covers, starts = _runs([scene.cover for scene in scenes])
    if len(covers) == 2:
        changes.append(f"The {covers[0]} becomes {covers[1]} in {_image(starts[1])}.")
    elif len(covers) > 2:
        raise ValueError(f"no wording for a cover that goes {' -> '.join(covers)}")
    changes += [_happening(timeline) for timeline in _timelines(scenes)
                if len(set(timeline)) > 1]
    return _only(changes, "Nothing changes.")


def with_article(kind: str) -> str:
    """ "a lake", "an airport"."""
    return f"{_article(kind)} {kind}"


ANSWER_FORMS = {  # what an answer about scenes looks like, whether or not it is true
    "compare": re.compile(
        r"Nothing changed\.|An? .+ appeared .+\.|The .+ (disappeared|grew|shrank)\.|"
        r"The .+ moved from .+ to .+\.|The .+ became .+\."),
    "sequence": re.compile(
        r"Nothing changes\.|The .+ (grows|shrinks)\.|The .+ moves from .+ to .+\.|"
        r"An? .+ appears .+ in <image_\d>( and disappears in <image_\d>)?\.|"
        r"The .+ disappears in <image_\d>( and reappears in <image_\d>)?\.|"
        r"The .+ becomes .+ in <image_\d>\."),
}
_COVER_PHRASES = {"forest": "a forest", "cropland": "cropland", "grassland": "grassland",
                  "desert": "a desert", "snow": "a snow field", "mountain": "a mountain range",
                  "water": "open water"}
_COVER_WORDS = re.compile(rf"\b({'|'.join(COVERS)})s?\b")
# The longest first, so that no name hides another that it begins.
_FEATURE_WORDS = re.compile(
    rf"\b(?:(?P<kind>{'|'.join(KINDS)})s?"
    rf"|(?P<place>{'|'.join(sorted(CELLS + LINE_PLACES, key=len, reverse=True))}))\b")


def _article(noun):
    return "an" if noun[0] in "aeiou" else "a"


def _join(parts):
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


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


def _timelines(scenes):
    """For each thing that any scene shows: its Feature in each scene, or None.

    A point feature is known by its kind, a line, which cannot move, by its place as well.
    """
    shown = [{(feature.kind, feature.place if feature.kind in LINE_KINDS else None): feature
              for feature in scene.features} for scene in scenes]
    things = dict.fromkeys(thing for features in shown for thing in features)
    return [[features.get(thing) for features in shown] for thing in things]


def _runs(values):
    """The values with repeats in a row left out, and the index where each begins."""
    starts = [index for index, value in enumerate(values)
              if index == 0 or value != values[index - 1]]
    return [values[start] for start in starts], starts


def _happening(timeline):
    """One sentence on a feature that changes; timeline has its Feature, or None, per frame."""
    states, starts = _runs(timeline)
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
