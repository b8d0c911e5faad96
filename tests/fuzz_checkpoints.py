"""Load checkpoints that are damaged at random: only the project's own errors, with the file's name.

    python tests/fuzz_checkpoints.py --count 5000 --seed 0

A model without a marker, as data/ holds it: with one, any change is found by its checksum. Bytes
are cut off, flipped, put in or taken out, and values of JSON are replaced by others. Reports any
other error, a message without the folder's name, a load of more than 5 seconds, and more than 1 GB
of memory. The exit status is the number of these. For Linux and macOS.
"""

import argparse
import collections
import random
import re
import resource
import shutil
import sys
import tempfile
import time
import warnings
from pathlib import Path

import transformers
from small_runs import small_model, small_processor

from vlm_utils.loading import load_checkpoint
from vlm_utils.sources.folders import DamagedFiles

VALUES = ["0", "-1", "1e30", "10000000000", "null", "true", '"x"', "[]", "{}", "3.5", "999999",
          '""', "[1, 2]"]
VALUE = re.compile(r'(?<=[:\[ ])(-?\d+(\.\d+)?(e-?\d+)?|true|false|null|"[^"]*")(?=[,\n\]} ])')


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    warnings.simplefilter("ignore")
    problems, counts = [], collections.Counter()
    with tempfile.TemporaryDirectory() as place:
        whole, damaged = Path(place) / "whole", Path(place) / "damaged"
        small_model().save_pretrained(whole)
        small_processor().save_pretrained(whole)
        names = sorted(path.name for path in whole.iterdir())
        for number in range(options.count):
            rng = random.Random(f"{options.seed} {number}")
            shutil.rmtree(damaged, ignore_errors=True)
            shutil.copytree(whole, damaged)
            name = rng.choice(names)
            (damaged / name).write_bytes(mutate((whole / name).read_bytes(), rng))
            found, problem = load(damaged)
            counts[found] += 1
            if problem:
                problems.append(f"number {number}, {name}: {problem}")
    for problem in problems:
        print("  " + problem)
    print(f"{options.count} damaged checkpoints: {counts['refused']} refused, {counts['loaded']} "
          f"still fit each other and were loaded, {len(problems)} problems")
    sys.exit(len(problems))


def load(folder: Path) -> tuple[str, str | None]:
    started, before = time.perf_counter(), peak_memory()
    try:
        load_checkpoint(folder)
        found, problem = "loaded", None
    except DamagedFiles as error:
        found = "refused"
        problem = None if str(folder) in str(error) else f"names no file: {error}"
    except Exception as error:
        found, problem = "failed", f"{type(error).__name__}: {error}"
    if time.perf_counter() - started > 5:
        problem = f"took {time.perf_counter() - started:.0f} s"
    if peak_memory() - before > 1e9:
        problem = f"took {(peak_memory() - before) / 1e9:.1f} GB"
    return found, problem


def peak_memory() -> int:
    """The most bytes that this process has taken so far."""
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else 1024 * most


def mutate(content: bytes, rng: random.Random) -> bytes:
    """The same bytes with one kind of damage."""
    start = rng.randrange(len(content))
    kind = rng.choice(["cut", "flip", "flip the head", "put in", "take out", "value", "value"])
    spots = list(VALUE.finditer(content.decode("utf-8", "replace"))) if kind == "value" else []
    if spots:
        spot = rng.choice(spots)
        text = spot.string[:spot.start()] + rng.choice(VALUES) + spot.string[spot.end():]
        return text.encode()
    if kind in ("flip", "flip the head"):
        changed = bytearray(content)
        for _ in range(rng.choice([1, 2, 8, 50])):
            changed[rng.randrange(300 if kind != "flip" else len(content)) % len(content)] ^= \
                1 << rng.randrange(8)
        return bytes(changed)
    if kind == "put in":
        return content[:start] + rng.randbytes(rng.randrange(1, 20)) + content[start:]
    if kind == "take out":
        return content[:start] + content[start + rng.randrange(1, 200):]
    return content[:start]


if __name__ == "__main__":
    main()
