"""Hand mutated pictures, metadata files and model folders to the code that reads them.

    python tests/fuzz_inputs.py --count 20000           (about ten minutes of one core)
    python tests/fuzz_inputs.py --kinds models --count 2000 --seed 7
    python tests/fuzz_inputs.py --only 1234 --keep /tmp/case     (one case again, its files kept)

Whatever the bytes, reading ends well or with an error of the project's own (ValueError or
FileNotFoundError, or one of its kinds) that names the file; within 5 seconds, within 1 GB. The
cases are read in a process that is watched: one that hangs, grows or dies is a fault of the case it
was at, and another process goes on behind it. Each case depends on the seed and its number alone.
The exit status is 1 if there was a fault.
"""

from __future__ import annotations

import argparse
import copy
import io
import json
import queue
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import psutil

# The package beside this file is read, whatever is installed.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
SECONDS, BYTES = 5.0, 1_000_000_000
START = 120.0                       # seconds until a process has loaded its libraries
KINDS = ("pictures", "metadata", "models")
# Of ten cases each; a model folder takes thirty times as long as a picture.
SHARES = ("pictures",) * 6 + ("metadata",) * 3 + ("models",)
EXTREMES = [0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF]
VALUES = [None, True, -1, 0, 1, 3, 7, 10 ** 9, 10 ** 400, 0.5, -1e300, float("nan"), "", "x",
          "\ud800", "<image>", "../../etc/passwd", [], [[]], {}, {"a": {}}, "9" * 5000]


# --- cases ---------------------------------------------------------------------------------------

def mutate(content: bytes, rng: np.random.Generator, other: bytes = b"") -> bytes:
    """A content with some of its bytes changed, moved, doubled, cut off or taken from another."""
    data = bytearray(content)
    for _ in range(int(rng.choice([1, 1, 1, 2, 4, 16]))):
        if not data:
            break
        at, size = int(rng.integers(len(data))), int(rng.choice([1, 2, 4, 8, 64, 1024]))
        way = int(rng.integers(8))
        if way <= 1:
            for place in rng.integers(len(data), size=int(rng.integers(1, 9))):
                data[place] ^= 1 << int(rng.integers(8))
        elif way == 2:
            data[at:at + size] = rng.bytes(size)
        elif way == 3:
            width = int(rng.choice([1, 2, 4]))
            number = EXTREMES[rng.integers(len(EXTREMES))] & (256 ** width - 1)
            data[at:at + width] = number.to_bytes(width, str(rng.choice(["little", "big"])))
        elif way == 4:
            del data[at:at + size]
        elif way == 5:
            data[at:at] = data[at:at + size] * int(rng.integers(1, 4))
        elif way == 6:
            del data[at:]
        elif other:
            start = int(rng.integers(len(other)))
            data[at:at + size] = other[start:start + size]
    return bytes(data)


def mutate_json(text: str, rng: np.random.Generator) -> str:
    """A JSON text with some of its values replaced, or keys taken out, wherever they stand."""
    content = json.loads(text)
    for _ in range(int(rng.integers(1, 4))):
        holder, key = None, None
        inside: object = content
        while isinstance(inside, dict | list) and inside and (holder is None or rng.random() < 0.7):
            holder = inside
            key = (list(inside)[rng.integers(len(inside))] if isinstance(inside, dict)
                   else int(rng.integers(len(inside))))
            inside = inside[key]
        if holder is None:
            return json.dumps(VALUES[rng.integers(len(VALUES))])
        if rng.random() < 0.2:
            del holder[key]
        else:
            holder[key] = copy.deepcopy(VALUES[rng.integers(len(VALUES))])
    return json.dumps(content)


@lru_cache
def pictures() -> list[bytes]:
    """Small pictures of every format and many modes, as files."""
    from PIL import Image
    rng = np.random.default_rng(0)
    noise = Image.fromarray(rng.integers(0, 256, (24, 32, 3), np.uint8))
    grey = rng.integers(0, 4096, (24, 32))
    exif = Image.Exif()
    exif[0x0112] = 6
    sixteen, floats = Image.fromarray(grey.astype(np.uint16)), Image.fromarray(
        (grey / 4096).astype(np.float32))

    def frames() -> dict:               # new ones each time: saving leaves its traces on them
        return {"save_all": True, "append_images": [noise.rotate(180)]}

    made = [(noise, "png", {}), (noise.convert("RGBA"), "png", {}), (noise.convert("P"), "png", {}),
            (noise.convert("L"), "png", {"transparency": 3}), (sixteen, "png", {}),
            (noise, "jpeg", {"exif": exif}), (noise, "jpeg", {"progressive": True}),
            (noise.convert("CMYK"), "jpeg", {}), (noise, "MPO", frames()), (noise, "webp", {}),
            (noise, "webp", {"lossless": True}), (noise, "gif", {}), (noise, "gif", frames()),
            (noise, "bmp", {}), (noise.convert("1"), "bmp", {}), (noise, "png", frames()),
            (noise, "tiff", {}), (noise, "tiff", {"compression": "tiff_lzw"}),
            (noise, "tiff", {"compression": "jpeg"}), (noise, "tiff", frames()),
            (noise.convert("1"), "tiff", {"compression": "group4"}), (sixteen, "tiff", {}),
            (floats, "tiff", {}), (floats, "tiff", {"compression": "tiff_deflate"}),
            (noise, "tiff", {"exif": exif}), (noise, "avif", {})]
    files = []
    for picture, kind, options in made:
        stream = io.BytesIO()
        picture.copy().save(stream, format=kind, **options)
        files.append(stream.getvalue())
    return files


def picture_case(rng: np.random.Generator, folder: Path) -> Callable[[], object]:
    """A mutated picture; read by itself, or in a folder of frames."""
    from vlm_utils.sources.images import open_image
    from vlm_utils.sources.picture_folders import load_image_folder
    files = pictures()
    one, other = files[rng.integers(len(files))], files[rng.integers(len(files))]
    path = folder / f"case.{rng.choice(['png', 'jpg', 'tif'])}"
    path.write_bytes(mutate(one, rng, other))
    if rng.random() < 0.8:
        return lambda: open_image(path)
    return lambda: load_image_folder(folder)[0]


def metadata_case(rng: np.random.Generator, folder: Path) -> Callable[[], object]:
    """A folder of three pictures whose metadata is mutated, byte by byte or value by value."""
    import pandas as pd

    from vlm_utils.sources.picture_folders import load_image_folder
    rows = [{"file_name": f"{i}.png", "caption_0": f"Grün, \"{i}\".", "caption_1": "One more."}
            for i in range(3)]
    for i in range(3):
        (folder / f"{i}.png").write_bytes(pictures()[i])
    kind = str(rng.choice(["jsonl", "jsonl", "csv", "parquet"]))
    path = folder / f"metadata.{kind}"
    if kind == "parquet":
        pd.DataFrame(rows).to_parquet(path)
    elif kind == "csv":
        pd.DataFrame(rows).to_csv(path, index=False)
    else:
        lines = [json.dumps(row, ensure_ascii=False) for row in rows]
        if rng.random() < 0.6:
            lines = [mutate_json(line, rng) for line in lines]
            path.write_bytes("\n".join(lines).encode(errors="surrogatepass"))
            return lambda: load_image_folder(folder)
        path.write_bytes("\n".join(lines).encode())
    path.write_bytes(mutate(path.read_bytes(), rng))
    return lambda: load_image_folder(folder)


@lru_cache
def model_folder() -> dict[str, bytes]:
    """The files of a small model and its processor, as save_pretrained writes them."""
    from small_models import MAX_IMAGES, SIDE, TEXTS, TOKENS, small_model
    from transformers import ViTImageProcessorPil

    from vlm_utils.architecture import MultiImageProcessor
    from vlm_utils.making.base_model import make_tokenizer
    processor = MultiImageProcessor(
        make_tokenizer(TEXTS, MAX_IMAGES), ViTImageProcessorPil(
            size={"height": SIDE, "width": SIDE}), TOKENS, MAX_IMAGES, max_length=512)
    with tempfile.TemporaryDirectory() as folder:
        small_model(processor).save_pretrained(folder)
        processor.save_pretrained(folder)
        return {path.name: path.read_bytes() for path in sorted(Path(folder).iterdir())}


def model_case(rng: np.random.Generator, folder: Path) -> Callable[[], object]:
    """A model folder of which one file is mutated, cut off or gone; some are sealed before."""
    from vlm_utils.loading import load_checkpoint
    from vlm_utils.sources.checkpoints import MARKER
    from vlm_utils.sources.folders import seal
    files = model_folder()
    target = folder / "model"
    target.mkdir()
    for name, content in files.items():
        (target / name).write_bytes(content)
    if rng.random() < 0.2:
        seal(target, MARKER, {"steps": 3, "of": 3, "number": 1})
    names = sorted(path.name for path in target.iterdir())
    name = names[rng.integers(len(names))]
    content = (target / name).read_bytes()
    if rng.random() < 0.05:
        (target / name).unlink()
    elif name.endswith(".json") and rng.random() < 0.6:
        text = mutate_json(content.decode(), rng)
        (target / name).write_bytes(text.encode(errors="surrogatepass"))
    elif name.endswith(".safetensors") and rng.random() < 0.5:
        end = 8 + int.from_bytes(content[:8], "little")     # of the header: what lies where
        head = mutate_json(content[8:end].decode(), rng).encode(errors="surrogatepass")
        (target / name).write_bytes(len(head).to_bytes(8, "little") + head + content[end:])
    else:
        (target / name).write_bytes(mutate(content, rng))
    return lambda: load_checkpoint(target)


CASES = {"pictures": picture_case, "metadata": metadata_case, "models": model_case}


def kind_of(number: int, kinds: Sequence[str]) -> str:
    shares = [kind for kind in SHARES if kind in kinds]
    return shares[number % len(shares)]


def run_case(seed: int, number: int, kinds: Sequence[str], folder: Path) -> str:
    """What became of a case: "read", "refused: ..." or "FAULT: ..."."""
    rng = np.random.default_rng([seed, number])
    read = CASES[kind_of(number, kinds)](rng, folder)
    own = [path.name for path in folder.rglob("*")] + [folder.name]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            read()
    except Exception as error:      # what it is, is what is asked
        return judge(error, own)
    return "read"


def judge(error: Exception, names: Sequence[str]) -> str:
    """Is an error one of the project's, with the name of a file of the case in its message?"""
    kind, text = type(error), str(error)
    ours = issubclass(kind, ValueError | FileNotFoundError) and (
        kind in (ValueError, FileNotFoundError) or kind.__module__.startswith("vlm_utils"))
    said = f"{kind.__name__}: {text[:300]}"
    if not ours:
        return f"FAULT: an error of another's: {said}"
    if not any(name in text for name in names):
        return f"FAULT: no file is named: {said}"
    return f"refused: {said}"


# --- the process that reads, and the one that watches ---------------------------------------------

def work(seed: int, first: int, last: int, kinds: Sequence[str]) -> None:
    """Read cases first to last, and say what becomes of each, one JSON line before and after."""
    for kind in kinds:              # what is made once is not the first case's to wait for
        with tempfile.TemporaryDirectory() as folder:
            run_case(seed, 0, [kind], Path(folder))
    for number in range(first, last):
        print(json.dumps({"start": number}), flush=True)
        with tempfile.TemporaryDirectory(prefix="fuzz") as folder:
            outcome = run_case(seed, number, kinds, Path(folder))
        print(json.dumps({"end": number, "outcome": outcome}), flush=True)


def watch(command: Sequence[str], first: int, last: int, seconds: float = SECONDS,
          most: int = BYTES) -> Iterator[tuple[int, str]]:
    """Run a worker on cases first to last; each case's number and outcome, in order.

    command is called with the first and the last number behind it. A worker that takes longer than
    `seconds` for a case, has more than `most` bytes of memory, or dies, is ended; that is the
    outcome of its case, and a new worker goes on with the next one.
    """
    while first < last:
        # libtiff writes to stderr whatever it meets; only its end is of use, if a worker dies.
        with tempfile.TemporaryFile() as errors:
            process = subprocess.Popen([*command, str(first), str(last)], stdout=subprocess.PIPE,
                                       stderr=errors, text=True)
            before = first
            for number, outcome in _follow(process, seconds, most):
                yield number, outcome
                first = number + 1
            if first == before:
                errors.seek(0)
                said = errors.read().decode(errors="replace")[-2000:]
                raise RuntimeError(f"the worker did nothing ({process.returncode}): {said}")


def _follow(process: subprocess.Popen, seconds: float, most: int) -> Iterator[tuple[int, str]]:
    """Outcomes as a worker says them, and that of the case at which it is ended, or ends."""
    lines: queue.Queue[str | None] = queue.Queue()

    def read() -> None:
        for line in process.stdout:
            lines.put(line)
        lines.put(None)

    threading.Thread(target=read, daemon=True).start()
    current, since, fault = None, time.monotonic(), None
    while fault is None:
        try:
            line = lines.get(timeout=0.02)
        except queue.Empty:
            line = ""
        if line is None:
            fault = f"the process ended ({process.wait()})"
        elif line.startswith("{"):
            said, since = json.loads(line), time.monotonic()
            current = said.get("start")
            if current is None:
                yield said["end"], said["outcome"]
        fault = fault or _too_much(process, since, START if current is None else seconds, most)
    process.kill()
    process.wait()
    if current is not None:
        yield current, f"FAULT: {fault}"


def _too_much(process: subprocess.Popen, since: float, seconds: float, most: int) -> str | None:
    try:
        memory = psutil.Process(process.pid).memory_info().rss
    except psutil.Error:            # it has just ended, which its output will tell
        return None
    if memory > most:
        return f"{memory / 1e6:.0f} MB of memory"
    waited = time.monotonic() - since
    return f"no answer for {waited:.0f} seconds" if waited > seconds else None


def fuzz(count: int, seed: int, kinds: Sequence[str], first: int = 0) -> dict[str, Counter]:
    """Run cases and print the faults and a table: by kind, how many were read, refused, at fault.

    Returns that table.
    """
    table = {kind: Counter() for kind in kinds}
    command = [sys.executable, __file__, "--seed", str(seed), "--kinds", *kinds, "--work"]
    for number, outcome in watch(command, first, first + count):
        word = outcome.split(":")[0]
        table[kind_of(number, kinds)][word] += 1
        if word == "FAULT":
            print(f"case {number} ({kind_of(number, kinds)}): {outcome}", flush=True)
    print(f"{'kind':10} {'read':>8} {'refused':>8} {'faults':>8}")
    for kind, counts in table.items():
        print(f"{kind:10} {counts['read']:8} {counts['refused']:8} {counts['FAULT']:8}")
    return table


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--count", type=int, default=20_000)
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--only", type=int, help="run this case alone, in this process")
    parser.add_argument("--keep", type=Path, help="with --only: where its files are kept")
    parser.add_argument("--work", nargs=2, type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        work(options.seed, *options.work, options.kinds)
        return 0
    if options.only is not None:
        folder = options.keep or Path(tempfile.mkdtemp(prefix="fuzz"))
        folder.mkdir(parents=True, exist_ok=True)
        outcome = run_case(options.seed, options.only, options.kinds, folder)
        print(outcome)
        if options.keep is None:
            shutil.rmtree(folder)
        return int(outcome.startswith("FAULT"))
    table = fuzz(options.count, options.seed, options.kinds, options.first)
    return int(any(counts["FAULT"] for counts in table.values()))


if __name__ == "__main__":
    sys.exit(main())
