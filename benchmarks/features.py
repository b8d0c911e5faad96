"""What the features of many images take: encode some at real shapes, in parts, and multiply.

    python benchmarks/features.py --scale real --images 5000 --output benchmarks/features.json

TinyEarth's tiles enlarged to the encoder's size, through `vlm_utils.scaling.encode_parts`, from PIL
images to files. The last line is JSON: MB of an image on the disk, images per second, and what a
million would take by that. On a CPU, seconds are those that the processor worked for this program:
what else runs on the machine does not count.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

from common import SCALES, as_table, machine, make_ours, rounded, same_for_everyone
from PIL import Image

from vlm_utils.datasets import load_image_table
from vlm_utils.profiles import get_device, get_profile
from vlm_utils.scaling import encode_parts, estimate_features


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", choices=SCALES, default="tiny")
    parser.add_argument("--images", type=int, default=64, help="how many are encoded (default: 64)")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--output", type=Path, help="a file for the JSON, besides the last line")
    options = parser.parse_args()
    same_for_everyone()
    scale = SCALES[options.scale]
    tiles = load_image_table(get_profile("tiny"), "train")
    size = scale.image_size, scale.image_size
    table = as_table([tiles.image(i).resize(size, Image.Resampling.BILINEAR)
                      for i in range(min(options.images, len(tiles)))])
    model, processor = make_ours(scale, scale.merges[1][0], seed=0)
    model.to(get_device())
    with tempfile.TemporaryDirectory() as folder:
        clock = time.process_time if get_device().type == "cpu" else time.perf_counter
        started = clock()
        encode_parts(table, model, processor, 64, options.batch_size, Path(folder))
        seconds = clock() - started
        megabytes = sum(f.stat().st_size for f in Path(folder).rglob("*.arrow")) / 1e6
    found = {"images": len(table), "images_per_second": len(table) / seconds,
             "megabytes_per_image": megabytes / len(table)}
    million = estimate_features(
        1_000_000, found["megabytes_per_image"], found["images_per_second"])
    result = json.dumps(rounded({"benchmark": "features", "scale": scale.name, **found,
                                 "a million": asdict(million),
                                 "machine": machine(get_device().type)}))
    if options.output:
        options.output.write_text(result + "\n")
    print(result)


if __name__ == "__main__":
    main()
