"""What the features of many images take: encode some at real shapes, in parts, and multiply.

    python benchmarks/features.py --scale real --images 5000 --folder parts \\
        --output benchmarks/features.json

TinyEarth's tiles enlarged to the encoder's size, through `vlm_utils.scaling.encode_parts`, from PIL
images to files. Killed, the same command goes on with the part that is missing; what it had worked
on the lost part counts as well. The last line is JSON: MB of an image on the disk, images per
second, and what a million would take by that. On a CPU, seconds are those that the processor worked
for this program: what else runs on the machine does not count.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path

from common import (
    SCALES,
    Scale,
    add_output,
    as_table,
    machine,
    make_ours,
    rounded,
    same_for_everyone,
)
from PIL import Image

from vlm_utils.architecture import MultiImageProcessor, MultiImageVLM
from vlm_utils.datasets import ImageTable, load_image_table
from vlm_utils.profiles import get_device, get_profile
from vlm_utils.scaling import encode_parts, estimate_features
from vlm_utils.sources.folders import read_marker
from vlm_utils.training.features import FILE, MARKER


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", choices=SCALES, default="tiny")
    parser.add_argument("--images", type=int, default=64, help="how many are encoded (default: 64)")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--folder", type=Path, help="keep the parts here, and go on with them")
    parser.add_argument("--so-far", action="store_true",
                        help="encode nothing: what --folder holds already")
    add_output(parser)
    options = parser.parse_args()
    same_for_everyone()
    scale = SCALES[options.scale]
    if options.so_far:
        found = so_far(options.folder)
    else:
        found = measure(scale, options.images, options.batch_size, options.folder)
    million = estimate_features(
        1_000_000, found["megabytes_per_image"], found["images_per_second"])
    result = json.dumps(rounded({"benchmark": "features", "scale": scale.name, **found,
                                 "a million": asdict(million),
                                 "machine": machine(get_device().type)}))
    if options.output:
        options.output.write_text(result + "\n")
    print(result)


def measure(scale: Scale, images: int, batch_size: int, folder: Path | None) -> dict:
    """Encode so many tiles; in a folder, go on with what is there."""
    table = tiles(images, scale.image_size)
    model, processor = make_ours(scale, scale.merges[1][0], seed=0)
    model.to(get_device())
    with nullcontext(folder) if folder else tempfile.TemporaryDirectory() as place:
        return encode(table, model, processor, batch_size, Path(place))


def tiles(count: int, side: int) -> ImageTable:
    """So many different tiles of TinyEarth, enlarged. Raises ValueError if there are fewer."""
    table, pictures, seen = load_image_table(get_profile("tiny"), "train"), [], set()
    for row in range(len(table)):
        if len(pictures) == count:
            break
        tile = table.image(row)
        if tile.tobytes() not in seen:
            seen.add(tile.tobytes())
            pictures.append(tile.resize((side, side), Image.Resampling.BILINEAR))
    if len(pictures) < count:
        raise ValueError(f"TinyEarth has {len(pictures)} different tiles to train on, not {count}")
    return as_table(pictures)


def encode(table: ImageTable, model: MultiImageVLM, processor: MultiImageProcessor,
           batch_size: int, folder: Path, images_per_part: int = 64) -> dict:
    """Encode what is missing in the folder; images, MB and seconds of all runs that worked there.

    After each batch, the seconds of this run are written down: of a run that was killed, the last
    line counts.
    """
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "seconds.txt"
    before = log.read_text().splitlines() if log.is_file() else []
    seconds = clock()
    whole = model.encode_images

    def encode_images(pixels):
        features = whole(pixels)
        with log.open("a") as lines:
            lines.write(f"{len(before)} {seconds()}\n")
        return features

    model.encode_images = encode_images
    encode_parts(table, model, processor, images_per_part, batch_size, folder)
    with log.open("a") as lines:
        lines.write(f"{len(before)} {seconds()}\n")
    return so_far(folder)


def so_far(folder: Path) -> dict:
    """What the parts that are whole hold, and what all runs took for them and for lost ones."""
    last = dict(line.split() for line in (folder / "seconds.txt").read_text().splitlines())
    parts = [(part, facts) for part in folder.glob("*/part-*")
             if (facts := read_marker(part, MARKER)) is not None]
    images = sum(stop - start for start, stop in (facts["rows"] for _, facts in parts))
    megabytes = sum((part / FILE).stat().st_size for part, _ in parts) / 1e6
    return {"images": images, "runs": len(last),
            "images_per_second": images / sum(map(float, last.values())),
            "megabytes_per_image": megabytes / images}


def clock() -> Callable[[], float]:
    """Seconds since now: on a CPU, those that this process worked."""
    now = time.process_time if get_device().type == "cpu" else time.perf_counter
    started = now()
    return lambda: now() - started


if __name__ == "__main__":
    main()
