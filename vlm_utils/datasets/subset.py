"""A part of a table's images that can still tell what the whole can (VLM_SUBSET)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def choose_subset(sites: Sequence[tuple[int, ...]], total: int,
                  images: int) -> tuple[list[int], list[tuple[int, ...]]]:
    """Rows of a table to keep, in order, and its sites by their new numbers.

    sites: for each place the rows that show it, in order of time. total: rows of the table.
    images: how many to keep, fewer than total. They are spread over the whole table. Sites stay in
    proportion to what they are of the table, long ones first: a lesson needs a sequence of four
    frames more than two of two. Of a long series some frames are kept, spread over its time, so
    that one place does not take all the room: lessons also ask about images of other places.
    """
    series = sorted((rows for rows in sites if len(rows) > 1), key=len, reverse=True)
    framed = {row for rows in series for row in rows}
    singles = [row for row in range(total) if row not in framed]
    wanted = max(round(images * len(framed) / total), images - len(singles))
    most = max(4, images // 8)
    while sum(min(most, len(rows)) for rows in series) < min(wanted, len(framed)):
        most += 1                       # few places: more of each
    kept: list[tuple[int, ...]] = []
    for rows in series:
        room = wanted - sum(map(len, kept))
        if room < 2:
            break
        kept.append(_spread(rows, min(room, most)))
    left = images - sum(map(len, kept))
    chosen = sorted({row for rows in kept for row in rows}
                    | set(_spread(singles, left, to_the_end=False)))
    number = {row: i for i, row in enumerate(chosen)}
    kept_sites = [tuple(number[row] for row in rows) for rows in kept]
    alone = [rows for rows in sites if len(rows) == 1 and rows[0] in number]
    return chosen, kept_sites + [(number[row],) for row, in alone]


def _spread(rows: Sequence[int], count: int, to_the_end: bool = True) -> tuple[int, ...]:
    """So many of the rows, in order, evenly spaced; to_the_end: with the first and the last."""
    places = np.linspace(0, len(rows) - to_the_end, min(count, len(rows)), endpoint=to_the_end)
    return tuple(rows[place] for place in places.round().astype(int) if place < len(rows))
