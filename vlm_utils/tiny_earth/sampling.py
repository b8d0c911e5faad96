"""Random scenes, and random sequences in which one event takes place."""

from __future__ import annotations

import numpy as np

from vlm_utils.tiny_earth.scenes import (
    CELLS,
    COVERS,
    KINDS,
    LINE_KINDS,
    LINE_PLACES,
    MOVING_KINDS,
    POINT_KINDS,
    SIZED_KINDS,
    Feature,
    Scene,
    allowed_kinds,
    cells_on_line,
    free_cells,
)

MAX_FRAMES = 16
EVENTS = ("grow", "shrink", "appear", "disappear", "come and go", "move", "cover change",
          "nothing")
COVER_CHANGES = (("forest", "cropland"), ("forest", "grassland"), ("cropland", "grassland"),
                 ("grassland", "desert"), ("grassland", "snow"), ("mountain", "snow"))


def sample_scene(rng: np.random.Generator) -> Scene:
    """Draw a random scene: a cover, 0 to 3 point features and, on land, sometimes a line."""
    cover = pick(rng, COVERS)
    line = _sample_line(rng, 0.3) if cover != "water" else ()
    count = rng.choice(4, p=(0.08, 0.32, 0.36, 0.24))
    return Scene(cover, line + _sample_points(rng, POINT_KINDS[cover], count, line))


def sample_sequence(rng: np.random.Generator, num_frames: int, event=None) -> list[Scene]:
    """Draw one site at num_frames dates (2 to 16), in which one event takes place.

    event is one of EVENTS, by default a random one; "come and go" needs 3 frames. From 3 frames
    on, at least two frames show the same state (never a state that was left before, except in
    "come and go"). Up to two other features stand still. Raises ValueError for other arguments.
    """
    if not 2 <= num_frames <= MAX_FRAMES:
        raise ValueError(f"a sequence has 2 to {MAX_FRAMES} frames, not {num_frames}")
    possible = possible_events(num_frames)
    event = event or pick(rng, possible)
    if event not in possible:
        raise ValueError(f"no event {event!r} in {num_frames} frames, only {possible}")

    if event == "nothing":
        return [sample_scene(rng)] * num_frames
    if event == "cover change":
        pair = pick(rng, COVER_CHANGES)
        pair = pair if rng.random() < 0.5 else pair[::-1]
        kinds = [kind for kind in POINT_KINDS[pair[0]] if kind in POINT_KINDS[pair[1]]]
        still = _sample_still(rng, kinds, ())
        return [Scene(cover, still) for cover in _spread(rng, pair, num_frames)]

    states = _sample_states(rng, event, num_frames)
    kind = next(state.kind for state in states if state)
    cover = pick(rng, [cover for cover in COVERS if kind in allowed_kinds(cover)])
    kinds = [other for other in POINT_KINDS[cover] if other != kind]
    still = _sample_still(rng, kinds, tuple({state for state in states if state}))
    return [Scene(cover, still + ((state,) if state else ()))
            for state in _spread(rng, states, num_frames)]


def possible_events(num_frames):
    return [event for event in EVENTS if event != "come and go" or num_frames > 2]


def _sample_states(rng, event, num_frames):
    """The states that the one changing feature goes through; None where it is absent."""
    if event == "move":
        length = rng.integers(2, max(3, min(num_frames, 5)))
        kind = pick(rng, MOVING_KINDS)
        size = _sample_size(rng, kind)
        return [Feature(kind, place, size) for place in rng.permutation(CELLS)[:length].tolist()]
    if event in ("grow", "shrink"):
        kind, place = pick(rng, SIZED_KINDS), pick(rng, CELLS)
        return [Feature(kind, place, size) for size in ((1, 2) if event == "grow" else (2, 1))]
    kind = pick(rng, KINDS[:-2] + ("road",))  # rivers neither come nor go
    place = pick(rng, LINE_PLACES if kind == "road" else CELLS)
    feature = Feature(kind, place, _sample_size(rng, kind))
    if event == "come and go":
        return [None, feature, None] if rng.random() < 0.5 else [feature, None, feature]
    return [None, feature] if event == "appear" else [feature, None]


def _spread(rng, states, num_frames):
    """Give each state, in order, one or more of the frames, at random.

    A change in the very last frame is drawn half as often as elsewhere: most sequences then go
    on after their event, and their last image has partners of which it does not differ.
    """
    weights = np.ones(num_frames - 1)
    weights[-1] = 0.5
    changes = rng.choice(np.arange(1, num_frames), size=len(states) - 1, replace=False,
                         p=weights / weights.sum())
    return [states[np.sum(changes <= frame)] for frame in range(num_frames)]


def _sample_still(rng, kinds, taken):
    """Up to two features that stand still beside the features taken."""
    crossing = [feature for feature in taken if feature.place in LINE_PLACES]
    on_water = "ship" in kinds or "island" in kinds
    line = () if crossing or on_water else _sample_line(rng, 0.2)
    if line and any(feature.place in cells_on_line(line[0].place) for feature in taken):
        line = ()
    return line + _sample_points(rng, kinds, rng.integers(0, 3 - len(line)), line + taken)


def _sample_line(rng, probability):
    if rng.random() >= probability:
        return ()
    return (Feature(pick(rng, LINE_KINDS), pick(rng, LINE_PLACES)),)


def _sample_points(rng, kinds, count, taken):
    """count different point features (or as many kinds as there are) in cells not taken."""
    free = free_cells(taken)
    count = min(count, len(kinds), len(free))
    kinds = rng.choice(kinds, count, replace=False).tolist()
    places = rng.choice(free, count, replace=False).tolist()
    return tuple(Feature(kind, place, _sample_size(rng, kind))
                 for kind, place in zip(kinds, places, strict=True))


def _sample_size(rng, kind):
    return int(rng.integers(1, 3)) if kind in SIZED_KINDS else 2


def pick(rng, options):
    return options[rng.integers(len(options))]
