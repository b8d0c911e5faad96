"""Which moments, and which frames, a clip is seen by: arithmetic on seconds, no file is touched."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence


def frame_times(seconds: float, count: int, start: float = 0.0) -> list[float]:
    """The centres of `count` equal segments of a clip: where to look, in seconds.

    Centres and not edges: a clip's first and last moment are often black or a title, and with one
    frame the middle says most. seconds: how long the clip lasts. Raises ValueError if it lasts no
    time, or if no moment is asked for.
    """
    _check(seconds, "seconds")
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise ValueError(f"count is a whole number of at least 1, not {count!r}")
    return [start + seconds * (2 * i + 1) / (2 * count) for i in range(count)]


def moments_every(seconds: float, every: float, start: float = 0.0) -> list[float]:
    """One moment after each `every` seconds, the first at `start`, none at or after the end.

    Each is a product, not the sum of many steps: a sum drifts, and its last step may land a hair
    before the end and give one moment too many. Raises ValueError if either is not above 0.
    """
    _check(seconds, "seconds")
    _check(every, "every_seconds")
    count = max(1, math.ceil(seconds / every - 1e-6))
    return [start + k * every for k in range(count)]


def shown_at(starts: Sequence[float], moment: float) -> int:
    """The frame that is on the screen at a moment: the last that has started, or the first."""
    return max(0, bisect_right(starts, moment) - 1)


def choose_frames(starts: Sequence[float], end: float, count: int) -> list[int]:
    """`count` frames of a clip, spread evenly over its time, each at most once; all if it has less.

    starts: when each frame appears, increasing; end: when the last disappears, in seconds. A frame
    that stays long would be seen at several moments: it is taken once, and the frames next to it
    fill the other places. Returns positions in `starts`, increasing.
    """
    if count >= len(starts):
        return list(range(len(starts)))
    chosen, last = [], -1
    for i, moment in enumerate(frame_times(end - starts[0], count, starts[0])):
        last = max(shown_at(starts, moment), last + 1)
        last = min(last, len(starts) - (count - i))         # leave one for each that follows
        chosen.append(last)
    return chosen


def _check(value: float, name: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) \
            or not math.isfinite(value) or value <= 0:
        raise ValueError(f"{name} is a number of seconds above 0, not {value!r}")
