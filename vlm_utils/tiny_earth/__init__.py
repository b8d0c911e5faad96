"""TinyEarth: a small world of satellite tiles with known ground truth, embedded in `data/`.

A `Scene` is a cover (forest, desert, ...) with features (a lake, a road, ...), each at one place
of a 2x2 grid or along a line. From it come the tile (`render`), the box of each feature
(`with_boxes`), five captions (`captions`) and what happened between dates (`describe_change`,
`describe_sequence`); `facts` reads a caption back. `Conditions` say how a frame was taken.
`load_scenes` and `load_sequences` open the stored tables. Rebuild them with

    python -m vlm_utils.tiny_earth
"""

from vlm_utils.tiny_earth.build import COUNTS, build, scene_row, sequence_row
from vlm_utils.tiny_earth.covers import SEASONS
from vlm_utils.tiny_earth.drawing import box_of, render, with_boxes
from vlm_utils.tiny_earth.sampling import EVENTS, MAX_FRAMES, sample_scene, sample_sequence
from vlm_utils.tiny_earth.scenes import (
    CELLS,
    COVERS,
    GRID,
    KINDS,
    LINE_KINDS,
    LINE_PLACES,
    MOVING_KINDS,
    SIZED_KINDS,
    Box,
    Feature,
    Scene,
    allowed_kinds,
    cells_on_line,
    free_cells,
)
from vlm_utils.tiny_earth.sentences import (
    ANSWER_FORMS,
    captions,
    cover_phrase,
    describe_change,
    describe_sequence,
    facts,
    phrase,
    runs,
    scene_facts,
    timelines,
    where,
    with_article,
)
from vlm_utils.tiny_earth.tables import frames_as_rows, load_scenes, load_sequences
from vlm_utils.tiny_earth.weather import Conditions, season_of

__all__ = [
    "ANSWER_FORMS", "CELLS", "COUNTS", "COVERS", "EVENTS", "GRID", "KINDS", "LINE_KINDS",
    "LINE_PLACES", "MAX_FRAMES", "MOVING_KINDS", "SEASONS", "SIZED_KINDS", "Box", "Conditions",
    "Feature", "Scene",
    "allowed_kinds", "box_of", "build", "captions", "cells_on_line", "cover_phrase",
    "describe_change", "describe_sequence", "facts", "frames_as_rows", "free_cells", "load_scenes",
    "load_sequences", "phrase", "render", "runs", "sample_scene", "sample_sequence", "scene_facts",
    "scene_row", "season_of", "sequence_row", "timelines", "where", "with_article", "with_boxes"]
