"""TinyEarth: a small world of satellite tiles with known ground truth, embedded in `data/`.

A `Scene` is a cover (forest, desert, ...) with features (a lake, a road, ...), each at one place
of a 2x2 grid or along a line. From it come the tile (`render`), five captions (`captions`) and
what happened between dates (`describe_change`, `describe_sequence`); `facts` reads a caption
back. `load_scenes` and `load_sequences` open the stored tables. Rebuild them with

    python -m vlm_utils.tiny_earth
"""

import argparse
import io
import json
import os
import re
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import date, timedelta
from pathlib import Path

import numpy as np

from vlm_utils.tiny_earth_drawing import LINE_PLACES, PLACES, cells_on_line, render

__all__ = ["COVERS", "EVENTS", "KINDS", "LINE_PLACES", "MAX_FRAMES", "PLACES", "SIZED_KINDS",
           "Feature", "Scene", "allowed_kinds", "build", "captions", "data_folder",
           "describe_change", "describe_sequence", "facts", "frames_as_rows", "free_places",
           "load_scenes", "load_sequences", "phrase", "render", "sample_scene", "sample_sequence",
           "scene_facts", "scene_row", "sequence_row"]

VERSION = 4  # of the random numbers: another version is another world
MAX_FRAMES = 8
POINT_KINDS = {  # what can stand at one place of each cover
    "forest": ("lake", "town", "fire", "clearing", "quarry"),
    "cropland": ("lake", "town", "fire", "solar farm", "airport"),
    "grassland": ("lake", "town", "fire", "quarry", "solar farm", "airport"),
    "desert": ("lake", "town", "quarry", "solar farm", "airport"),
    "snow": ("lake", "town", "quarry", "airport"),
    "mountain": ("lake", "town", "fire", "quarry"),
    "water": ("island", "ship", "wind farm"),
}
COVERS = tuple(POINT_KINDS)
LINE_KINDS = ("river", "road")
SIZED_KINDS = ("lake", "town", "fire", "clearing", "quarry", "solar farm", "island")
KINDS = SIZED_KINDS + ("airport", "ship", "wind farm") + LINE_KINDS
EVENTS = ("grow", "shrink", "appear", "disappear", "come and go", "move", "cover change",
          "nothing")
COVER_CHANGES = (("forest", "cropland"), ("forest", "grassland"), ("cropland", "grassland"),
                 ("grassland", "desert"), ("grassland", "snow"), ("mountain", "snow"))
COUNTS = {"scenes": {"train": 5000, "validation": 500, "test": 500},
          "sequences": {"train": 2000, "validation": 200, "test": 400}}
SPLITS = ("train", "validation", "test")
REBUILD = "python -m vlm_utils.tiny_earth"
WEBP_QUALITY = 80


# ---------------------------------------------------------------- scenes

@dataclass(frozen=True)
class Feature:
    """Something that stands on the ground: its kind, its place and its size, 1 (small) or 2."""

    kind: str
    place: str
    size: int = 2


@dataclass(frozen=True)
class Scene:
    """The ground truth of one tile: a cover and its features, kept in reading order of places.

    Raises ValueError, naming what is wrong, where this world has no such scene: an unknown or
    misplaced kind, two of a kind, two lines, two features in one cell.
    """

    cover: str
    features: tuple[Feature, ...] = ()

    def __post_init__(self):
        _check(self)
        order = (PLACES + LINE_PLACES).index
        ordered = tuple(sorted(self.features, key=lambda feature: order(feature.place)))
        object.__setattr__(self, "features", ordered)

    def to_json(self) -> str:
        """The scene as one line of JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Scene":
        """Read `to_json` back. Raises ValueError naming what is wrong with the text."""
        try:
            record = json.loads(text)
        except (TypeError, json.JSONDecodeError) as error:
            raise ValueError(f"a scene is not JSON: {error}") from error
        _check_keys(record, {"cover", "features"}, "a scene")
        if not isinstance(record["features"], list):
            raise ValueError(f"features are not a list: {record['features']!r}")
        for feature in record["features"]:
            _check_keys(feature, {"kind", "place", "size"}, "a feature")
        return cls(record["cover"], tuple(Feature(**feature) for feature in record["features"]))


def allowed_kinds(cover: str) -> tuple[str, ...]:
    """The kinds of feature that can stand on a cover: point features, then lines."""
    if cover not in COVERS:
        raise ValueError(f"unknown cover {cover!r}, not one of {COVERS}")
    return POINT_KINDS[cover] + (() if cover == "water" else LINE_KINDS)


def free_places(scene: Scene) -> tuple[str, ...]:
    """The cells, of the four, in which no feature stands and which no line passes."""
    return _free_cells(scene.features)


def sample_scene(rng: np.random.Generator) -> Scene:
    """Draw a random scene: a cover, 0 to 3 point features and, on land, sometimes a line."""
    cover = _pick(rng, COVERS)
    line = _sample_line(rng, 0.3) if cover != "water" else ()
    count = rng.choice(4, p=(0.08, 0.32, 0.36, 0.24))
    return Scene(cover, line + _sample_points(rng, POINT_KINDS[cover], count, line))


# ---------------------------------------------------------------- text

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


# ---------------------------------------------------------------- sequences

def sample_sequence(rng: np.random.Generator, num_frames: int, event=None) -> list[Scene]:
    """Draw one place at num_frames dates (2 to 8), in which one event takes place.

    event is one of EVENTS, by default a random one; "come and go" needs 3 frames. From 3 frames
    on, at least two frames show the same state (never a state that was left before, except in
    "come and go"). Up to two other features stand still. Raises ValueError for other arguments.
    """
    if not 2 <= num_frames <= MAX_FRAMES:
        raise ValueError(f"a sequence has 2 to {MAX_FRAMES} frames, not {num_frames}")
    possible = _possible_events(num_frames)
    event = event or _pick(rng, possible)
    if event not in possible:
        raise ValueError(f"no event {event!r} in {num_frames} frames, only {possible}")

    if event == "nothing":
        return [sample_scene(rng)] * num_frames
    if event == "cover change":
        pair = _pick(rng, COVER_CHANGES)
        pair = pair if rng.random() < 0.5 else pair[::-1]
        kinds = [kind for kind in POINT_KINDS[pair[0]] if kind in POINT_KINDS[pair[1]]]
        still = _sample_still(rng, kinds, ())
        return [Scene(cover, still) for cover in _spread(rng, pair, num_frames)]

    states = _sample_states(rng, event, num_frames)
    kind = next(state.kind for state in states if state)
    cover = _pick(rng, [cover for cover in COVERS if kind in allowed_kinds(cover)])
    kinds = [other for other in POINT_KINDS[cover] if other != kind]
    still = _sample_still(rng, kinds, tuple({state for state in states if state}))
    return [Scene(cover, still + ((state,) if state else ()))
            for state in _spread(rng, states, num_frames)]


def _possible_events(num_frames):
    return [event for event in EVENTS if event != "come and go" or num_frames > 2]


def _sample_states(rng, event, num_frames):
    """The states that the one changing feature goes through; None where it is absent."""
    if event == "move":
        length = rng.integers(2, max(3, min(num_frames, 5)))
        kind = _pick(rng, ("ship", "fire"))
        size = _sample_size(rng, kind)
        return [Feature(kind, place, size) for place in rng.permutation(PLACES)[:length].tolist()]
    if event in ("grow", "shrink"):
        kind, place = _pick(rng, SIZED_KINDS), _pick(rng, PLACES)
        return [Feature(kind, place, size) for size in ((1, 2) if event == "grow" else (2, 1))]
    kind = _pick(rng, KINDS[:-2] + ("road",))  # rivers neither come nor go
    place = _pick(rng, LINE_PLACES if kind == "road" else PLACES)
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
    return (Feature(_pick(rng, LINE_KINDS), _pick(rng, LINE_PLACES)),)


def _sample_points(rng, kinds, count, taken):
    """count different point features (or as many kinds as there are) in cells not taken."""
    free = _free_cells(taken)
    count = min(count, len(kinds), len(free))
    kinds = rng.choice(kinds, count, replace=False).tolist()
    places = rng.choice(free, count, replace=False).tolist()
    return tuple(Feature(kind, place, _sample_size(rng, kind))
                 for kind, place in zip(kinds, places, strict=True))


def _sample_size(rng, kind):
    return int(rng.integers(1, 3)) if kind in SIZED_KINDS else 2


def _pick(rng, options):
    return options[rng.integers(len(options))]


# ---------------------------------------------------------------- stored tables

def data_folder() -> Path:
    """The folder that holds `tiny_earth/`: $VLM_DATA if set, else the one that came with the code.

    Raises FileNotFoundError naming the folders tried and the command that rebuilds the data.
    """
    package = Path(__file__).resolve().parent
    if os.environ.get("VLM_DATA"):
        tried = [Path(os.environ["VLM_DATA"])]
    else:
        tried = [package.parent / "data", package / "_data"]
    for folder in tried:
        if (folder / "tiny_earth").is_dir():
            return folder
    places = " nor in ".join(str(folder) for folder in tried)
    raise FileNotFoundError(f"no tiny_earth folder in {places}; rebuild it with: {REBUILD}")


def load_scenes(split: str):
    """The single tiles of a split as a `datasets.Dataset`, with no network.

    Columns: place, image (PIL, 64x64), caption_0 ... caption_4, scene (JSON for `Scene`).
    """
    return _load("scenes", split)


def load_sequences(split: str):
    """The dated sequences of a split as a `datasets.Dataset`, with no network.

    Columns: place, frames (2 to 8 PIL images), dates (ISO), scenes (JSON for `Scene`), caption
    (`describe_sequence` of the scenes), event (one of EVENTS).
    """
    return _load("sequences", split)


def frames_as_rows(sequences):
    """The frames of a table of sequences one below the other, each of them as it is stored.

    Returns a `datasets.Dataset` with the column image, and the number of frames of each sequence.
    """
    import pyarrow as pa
    from datasets import Dataset, DatasetInfo, Features, Image

    frames = sequences.with_format("arrow")[:]["frames"]
    frames = pa.chunked_array([chunk.flatten() for chunk in frames.chunks], frames.type.value_type)
    info = DatasetInfo(features=Features({"image": Image()}))
    lengths = [len(dates) for dates in sequences["dates"]]
    return Dataset(pa.table({"image": frames}), info=info), lengths


def scene_row(split: str, index: int) -> dict:
    """Row `index` of a split as `load_scenes` has it, its image a (64, 64, 3) uint8 array."""
    rng, place, place_seed = _row_seeds("scenes", split, index)
    scene = sample_scene(rng)
    row = {"place": place, "image": render(scene, place_seed, _light_seed(rng))}
    row |= {f"caption_{number}": text for number, text in enumerate(captions(scene))}
    return row | {"scene": scene.to_json()}


def sequence_row(split: str, index: int) -> dict:
    """Row `index` of a split as `load_sequences` has it, its frames (64, 64, 3) uint8 arrays."""
    rng, place, place_seed = _row_seeds("sequences", split, index)
    num_frames = int(rng.choice(range(2, 9), p=(0.12, 0.14, 0.14, 0.14, 0.13, 0.13, 0.2)))
    event = _pick(rng, _possible_events(num_frames))
    scenes = sample_sequence(rng, num_frames, event)
    days = rng.integers(0, 3000) + np.cumsum(rng.integers(6, 120, size=num_frames))
    return {"place": place,
            "frames": [render(scene, place_seed, _light_seed(rng)) for scene in scenes],
            "dates": [str(date(2014, 1, 1) + timedelta(days=int(day))) for day in days],
            "scenes": [scene.to_json() for scene in scenes],
            "caption": describe_sequence(scenes),
            "event": event}


def build(folder: Path, counts: dict = COUNTS) -> None:
    """Write the tables under folder/tiny_earth, one parquet file for each table and split.

    counts has the number of rows as counts[table][split]. Each file replaces an older one at
    once, when it is complete. Prints a line for each file.
    """
    import pyarrow.parquet
    from datasets import Dataset, Features, Image, List, Value

    text = Value("string")
    schemas = {
        "scenes": Features(
            {"place": text, "image": Image()} | {f"caption_{number}": text for number in range(5)}
            | {"scene": text}),
        "sequences": Features(
            {"place": text, "frames": List(Image()), "dates": List(text), "scenes": List(text),
             "caption": text, "event": text}),
    }
    for table, splits in counts.items():
        for split, num_rows in splits.items():
            start = time.perf_counter()
            path = Path(folder) / "tiny_earth" / table / f"{split}.parquet"
            path.parent.mkdir(parents=True, exist_ok=True)
            rows = Dataset.from_list([_encoded_row(table, split, index)
                                      for index in range(num_rows)], features=schemas[table])
            unfinished = path.with_suffix(".unfinished")
            pyarrow.parquet.write_table(rows.data.table, unfinished, compression="zstd")
            unfinished.replace(path)
            print(f"{table}/{split}.parquet: {num_rows} rows, {path.stat().st_size / 1e6:.2f} MB, "
                  f"{time.perf_counter() - start:.0f} s", flush=True)


def _encoded_row(table, split, index):
    if table == "scenes":
        row = scene_row(split, index)
        return row | {"image": _encode(row["image"])}
    row = sequence_row(split, index)
    return row | {"frames": [_encode(frame) for frame in row["frames"]]}


def _encode(pixels):
    from PIL import Image

    file = io.BytesIO()
    # Sharp chroma keeps the colour of things a few pixels wide.
    Image.fromarray(pixels).save(
        file, "WEBP", quality=WEBP_QUALITY, method=6, use_sharp_yuv=True)
    return {"bytes": file.getvalue(), "path": None}


def _row_seeds(table, split, index):
    """A row's own random numbers, the name of its place, and a place seed that no other has."""
    numbers = (list(COUNTS).index(table), SPLITS.index(split), index)
    place_seed = (3 * numbers[0] + numbers[1]) * 1_000_000 + index
    name = f"{split}-{table.removesuffix('s')}-{index:06d}"
    return np.random.default_rng([VERSION, *numbers]), name, place_seed


def _light_seed(rng):
    return int(rng.integers(2 ** 32))


def _load(table, split):
    from datasets import Dataset

    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}, not one of {SPLITS}")
    path = data_folder() / "tiny_earth" / table / f"{split}.parquet"
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}; rebuild it with: {REBUILD}")
    return Dataset.from_parquet(str(path))


# ---------------------------------------------------------------- checks and words

_COVER_PHRASES = {"forest": "a forest", "cropland": "cropland", "grassland": "grassland",
                  "desert": "a desert", "snow": "a snow field", "mountain": "a mountain range",
                  "water": "open water"}
_COVER_WORDS = re.compile(rf"\b({'|'.join(COVERS)})s?\b")
# The longest first, so that no name hides another that it begins.
_FEATURE_WORDS = re.compile(
    rf"\b(?:(?P<kind>{'|'.join(KINDS)})s?"
    rf"|(?P<place>{'|'.join(sorted(PLACES + LINE_PLACES, key=len, reverse=True))}))\b")


def _check_keys(record, keys, what):
    if not isinstance(record, dict) or set(record) != keys:
        raise ValueError(f"{what} is no record of {sorted(keys)}: {record!r}")


def _check(scene):
    kinds_here = allowed_kinds(scene.cover)
    taken = set()
    for feature in scene.features:
        if feature.kind not in kinds_here:
            raise ValueError(f"no {feature.kind!r} on {scene.cover}, only {kinds_here}")
        places = LINE_PLACES if feature.kind in LINE_KINDS else PLACES
        if feature.place not in places:
            raise ValueError(f"no {feature.kind} at {feature.place!r}, only at {places}")
        sizes = (1, 2) if feature.kind in SIZED_KINDS else (2,)
        if type(feature.size) is not int or feature.size not in sizes:
            raise ValueError(f"no {feature.kind} of size {feature.size!r}, only {sizes}")
        group = "line" if feature.kind in LINE_KINDS else feature.kind
        for claim in (group, *_cells(feature)):
            if claim in taken:
                raise ValueError(f"two features claim the {claim}: {scene.features}")
            taken.add(claim)


def _cells(feature):
    return cells_on_line(feature.place) if feature.kind in LINE_KINDS else (feature.place,)


def _free_cells(features):
    taken = {cell for feature in features for cell in _cells(feature)}
    return tuple(place for place in PLACES if place not in taken)


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


def main() -> None:
    """Rebuild every table: `python -m vlm_utils.tiny_earth [--output FOLDER]`."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--output", type=Path, help="the folder to hold tiny_earth/",
                        default=Path(__file__).resolve().parent.parent / "data")
    build(parser.parse_args().output)


if __name__ == "__main__":
    main()
