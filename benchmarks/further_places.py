"""Lesson 07's model on places that nothing was chosen by: long series, each asked about once.

    python benchmarks/further_places.py --places 3000 --output benchmarks/further_places.json

The test split has few long series (83 places with 16 frames), and a model that misreads one place
is wrong in most questions about it. The further places of more_frames.py are drawn like the
validation split, and the mean of weights was chosen there. These follow the test split's own: rows
that no table holds, no training saw and no choice was made by.

With one question a place, the questions are independent, as the intervals (Wilson, 95%) take them
to be. About 15 places are drawn a second, and kept in build/more_places/. The last line is JSON,
which --output also writes to a file.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

from ablations import at_least_one
from common import add_output, machine, same_for_everyone, say

from vlm_utils.architecture import MultiImageProcessor, MultiImageVLM
from vlm_utils.datasets import ImageTable, TaskDataset, build_recipes
from vlm_utils.evaluation import evaluate
from vlm_utils.loading import load_checkpoint
from vlm_utils.making.more_places import more_series
from vlm_utils.profiles import data_folder, get_device
from vlm_utils.training import encode_table

FRAMES = (8, 12, 16)


def one_of_each_place(table: ImageTable, frames: int) -> TaskDataset:
    """One question about each place that has so many frames."""
    recipes = []
    for number, rows in enumerate(table.truth.sites):
        if len(rows) >= frames:     # a truth of this place alone, so that it is the one drawn
            recipes += build_recipes(replace(table.truth, sites=[rows]), {f"sequence {frames}": 1},
                                     seed=number)
    return TaskDataset(table, recipes)


def measure(model: MultiImageVLM, processor: MultiImageProcessor, places: int) -> list[dict]:
    """Accuracy of each number of frames, a row each, as `evaluate` returns them."""
    table = more_series(places, "test")
    table.image_features = encode_table(table, model, processor)
    found = []
    for frames in FRAMES:
        asked = one_of_each_place(table, frames)
        if not len(asked):
            raise ValueError(f"none of {places} places has {frames} frames: give more --places")
        found += json.loads(evaluate(model, processor, asked).to_json(orient="records"))
        say(f"{frames} frames: {found[-1]['samples']} places, {found[-1]['accuracy']:.1%} "
            f"({found[-1]['low']:.1%} to {found[-1]['high']:.1%})")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=data_folder() / "tiny_vlm_time")
    parser.add_argument("--places", type=at_least_one, default=3000,
                        help="further test places (default: 3,000)")
    add_output(parser)
    options = parser.parse_args()
    if not (options.model / "model.safetensors").is_file():
        parser.error(f"--model: {options.model} holds no model")
    same_for_everyone()
    rows = measure(*load_checkpoint(options.model), options.places)
    result = json.dumps({
        "benchmark": "further_places", "places": options.places, "model": options.model.name,
        "machine": machine(get_device().type),
        "rows": [{name: round(value, 4) if isinstance(value, float) else value
                  for name, value in row.items()} for row in rows]})
    print(result)
    if options.output:
        options.output.write_text(result + "\n")


if __name__ == "__main__":
    main()
