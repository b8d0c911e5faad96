"""What differs between frames although nothing happened: clouds, seasons, repeated pictures.

None of it touches the truth: a cloud leaves enough of everything in sight to be recognised, and
what changes in a sequence is under no cloud in any frame.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import date

import numpy as np

from vlm_utils.tiny_earth.covers import VEGETATION
from vlm_utils.tiny_earth.drawing import cloud_mask, feature_mask
from vlm_utils.tiny_earth.scenes import Box, Scene

KINDS_OF_WEATHER = ("clear", "clouds", "seasons", "repeats")
SHARES = (0.79, 0.08, 0.07, 0.06)  # of the sequences
CLOUDY = 0.4  # share of the frames of a sequence with clouds
MOST_HIDDEN = 0.35  # share of a thing that stands still which a cloud may hide


@dataclass(frozen=True)
class Conditions:
    """How one frame was taken.

    season: "summer", which is as painted, or one of SEASONS. cloud: the box that a cloud fills, in
    per cent, or None. repeats: it is the very picture before it, under a later date.
    """

    season: str = "summer"
    cloud: Box | None = None
    repeats: bool = False

    def to_json(self) -> str:
        """The conditions as one line of JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Conditions:
        """Read `to_json` back."""
        record = json.loads(text)
        return cls(**record | {"cloud": record["cloud"] and tuple(record["cloud"])})


def season_of(day: str) -> str:
    """The season of an ISO date in the northern half of this planet."""
    return ("winter", "spring", "summer", "autumn")[date.fromisoformat(day).month % 12 // 3]


def sample_conditions(rng: np.random.Generator, scenes: Sequence[Scene], dates: Sequence[str],
                      site_seed: int, light_seeds: list[int]) -> list[Conditions]:
    """Draw the conditions of each frame of a sequence: most sequences are clear throughout.

    A frame that repeats the one before it gets its light seed too: light_seeds is changed.
    """
    weather = rng.choice(KINDS_OF_WEATHER, p=SHARES)
    same = [k for k in range(1, len(scenes)) if scenes[k] == scenes[k - 1]]
    if weather == "repeats" and same:
        chosen = set(rng.choice(same, size=min(len(same), int(rng.integers(1, 3))),
                                replace=False).tolist())
        for k in sorted(chosen):
            light_seeds[k] = light_seeds[k - 1]
        return [Conditions(repeats=k in chosen) for k in range(len(scenes))]
    if weather == "seasons" and any(scene.cover in VEGETATION for scene in scenes):
        return [Conditions(season=season_of(day) if scene.cover in VEGETATION else "summer")
                for scene, day in zip(scenes, dates, strict=True)]
    if weather == "clear":
        return [Conditions()] * len(scenes)
    cloudy = rng.random(len(scenes)) < CLOUDY
    cloudy[rng.integers(len(scenes))] = True
    return [Conditions(cloud=_sample_cloud(rng, scenes, k, site_seed, light_seeds[k])
                       if cloudy[k] else None) for k in range(len(scenes))]


def _sample_cloud(rng, scenes, k, site_seed, light_seed):
    """A cloud over frame k that leaves its truth in sight, or None if none of 40 does."""
    shown = [set(scene.features) for scene in scenes]
    changing = [feature_mask(feature, site_seed)
                for feature in set.union(*shown) - set.intersection(*shown)]
    still = [feature_mask(feature, site_seed) for feature in set.intersection(*shown)]
    for _ in range(40):
        width, height = rng.integers(30, 61, size=2).tolist()
        left, top = rng.integers(0, 101 - width), rng.integers(0, 101 - height)
        cloud = (int(left), int(top), int(left) + width, int(top) + height)
        hidden = cloud_mask(cloud, light_seed)
        if all(hidden[mask].max() < 0.05 for mask in changing) and all(
                (hidden[mask] > 0.3).mean() <= MOST_HIDDEN for mask in still):
            return cloud
    return None
