"""Images from files, folders and the hub: opened with care, refused with a reason."""

from __future__ import annotations

import hashlib
import io
import json
import re
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from vlm_utils.profiles import HubRepository

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif"}
MAX_PIXELS = 100_000_000


def open_image(source: str | Path | bytes, name: str | None = None) -> Image.Image:
    """An image file as an upright RGB picture, whatever its mode.

    Grey, palette, CMYK and 16-bit pictures are converted, transparency is laid over white, EXIF
    rotation is applied. Raises ValueError naming the file where it is missing, unreadable, cut
    short, animated or larger than 100 million pixels.
    """
    name = name or (str(source) if not isinstance(source, bytes) else "image")
    try:
        stream = io.BytesIO(source) if isinstance(source, bytes) else open(source, "rb")
    except OSError as error:
        raise ValueError(f"{name}: cannot be opened ({error.strerror})") from error
    with stream:
        try:
            with Image.open(stream) as picture:
                _check_size(picture, name)
                picture.load()
                return as_rgb(picture, name)
        except UnidentifiedImageError as error:
            raise ValueError(f"{name}: is no image that can be read") from error
        except Image.DecompressionBombError as error:
            raise ValueError(f"{name}: {error}: save it smaller") from error
        except (OSError, SyntaxError) as error:
            raise ValueError(f"{name}: is damaged or cut short ({error})") from error


def as_rgb(picture: Image.Image, name: str = "image") -> Image.Image:
    """A PIL image of any mode as upright RGB. Raises ValueError for an animation."""
    # A multi-picture JPEG (MPO), as some cameras write it, is one photograph with a preview.
    if getattr(picture, "n_frames", 1) > 1 and picture.format != "MPO":
        raise ValueError(f"{name}: is an animation of {picture.n_frames} frames: save the frames "
                         "you mean as single images, in a folder of their own for a sequence")
    if picture.mode == "RGB" and not picture.getexif() and not picture.has_transparency_data:
        return picture
    picture = ImageOps.exif_transpose(picture)
    if picture.mode.startswith("I") or picture.mode == "F":     # 16 or 32 bits of grey
        values = np.asarray(picture, dtype=np.float64)
        top = 65535.0 if picture.mode.startswith("I;16") or values.max() > 255 else 255.0
        picture = Image.fromarray(np.clip(values / top * 255, 0, 255).astype(np.uint8))
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        white = Image.new("RGBA", picture.size, "white")
        picture = Image.alpha_composite(white, picture)
    return picture.convert("RGB")


def load_image_folder(folder: str | Path):
    """A folder in the `datasets` imagefolder convention as a Dataset with an `image` column.

    With a metadata.jsonl (or .csv) of file_name, caption_0, caption_1 ...: the images it names,
    with their captions. Without: all images in the order of their names, as frames in time.
    Raises ValueError naming the file or line that is wrong; every image is opened once to see.
    """
    from datasets import Dataset
    from datasets import Image as ImageFeature
    folder = Path(folder)
    rows = _metadata(folder)
    if rows is None:
        files = sorted((f for f in folder.iterdir() if f.suffix.lower() in SUFFIXES),
                       key=_as_people_count)
        if not files:
            raise ValueError(f"{folder}: holds no image ({', '.join(sorted(SUFFIXES))})")
        rows = [{"image": str(f)} for f in files]
    for row in rows:
        open_image(row["image"])
    dataset = Dataset.from_list(rows)
    # What is computed from these images is kept under this name: other files, another name.
    files = [Path(row["image"]) for row in rows]
    states = [(str(f), f.stat().st_size, f.stat().st_mtime_ns) for f in files]
    dataset._fingerprint = hashlib.sha256(repr((rows, states)).encode()).hexdigest()[:16]
    return dataset.cast_column("image", ImageFeature())


def _as_people_count(file: Path) -> list:
    """A key that sorts frame_2 before frame_10: text and numbers in turn."""
    parts = re.split(r"(\d+)", file.name)
    return [int(part) if i % 2 else part for i, part in enumerate(parts)]


def load_hub_images(repository: HubRepository, split: str):
    """One split of a data set on the hub, out of the local cache where it is there."""
    from datasets import Dataset

    from vlm_utils.sources.hub import fetch
    files = sorted(str(f) for f in (fetch(repository) / "data").glob(f"{split}-*.parquet"))
    if not files:
        raise FileNotFoundError(f"{repository.repo_id}: no file data/{split}-*.parquet")
    return Dataset.from_parquet(files)


def _metadata(folder: Path) -> list[dict] | None:
    """Rows of metadata.jsonl or metadata.csv, their files found, or None without such a file."""
    import pandas as pd
    lines, csv = folder / "metadata.jsonl", folder / "metadata.csv"
    if lines.is_file():
        rows = []
        for number, line in enumerate(lines.read_text(encoding="utf-8").splitlines(), start=1):
            if line.strip():
                try:
                    rows.append((f"{lines}, line {number}", json.loads(line)))
                except json.JSONDecodeError as error:
                    raise ValueError(f"{lines}, line {number}: is no JSON ({error})") from error
    elif csv.is_file():
        table = pd.read_csv(csv, dtype=str, keep_default_na=False)
        rows = [(f"{csv}, row {i + 1}", row) for i, row in enumerate(table.to_dict("records"))]
    else:
        return None
    if not rows:
        raise ValueError(f"{lines if lines.is_file() else csv}: names no image")
    for where, row in rows:
        if not isinstance(row, dict) or not isinstance(row.get("file_name"), str):
            raise ValueError(f"{where}: has no file_name")
    columns = [f"caption_{i}" for i in range(5)]
    found = []
    for where, row in rows:
        path = folder / row["file_name"]
        if not path.is_file():
            raise ValueError(f"{where}: names {row['file_name']}, which is not in {folder}")
        captions = {c: str(row[c]) for c in columns if row.get(c)}
        if any(c in r for _, r in rows for c in columns) and not captions:
            raise ValueError(f"{where}: {row['file_name']} has no caption, others have")
        found.append({"image": str(path)} | {c: captions.get(c) for c in columns
                                             if any(r.get(c) for _, r in rows)})
    return found


def _check_size(picture: Image.Image, name: str) -> None:
    width, height = picture.size
    if width * height > MAX_PIXELS:
        raise ValueError(f"{name}: is {width} x {height} pixels, more than the "
                         f"{MAX_PIXELS // 1_000_000} million that are read: save it smaller")
    if getattr(picture, "n_frames", 1) > 1 and picture.format != "MPO":
        as_rgb(picture, name)
