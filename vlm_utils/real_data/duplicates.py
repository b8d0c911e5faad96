"""Near-duplicates: pictures that are the same to the eye, in two splits or within one."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image
from scipy.fft import dctn

from vlm_utils.datasets import ImageTable
from vlm_utils.sources.beside import OF_SYSTEMS
from vlm_utils.sources.images import SUFFIXES, as_rgb, open_image
from vlm_utils.tiny_earth.turning import turn_image

Pictures = ImageTable | str | Path | Sequence[str | Path | Image.Image]
WAVES = 12                      # by WAVES: the slowest of a picture; their signs are its hash
FLAT = 0.1                      # grey levels: what varies less is of one colour
_BLOCK = 2048                   # pictures compared at a time


def perceptual_hash(picture: Image.Image) -> np.ndarray:
    """143 bits that say what a picture looks like from afar: (143,), of bool.

    The slowest 12 x 12 waves of its cosine transform, without the mean: is each above their median?
    Another size, brightness, contrast or JPEG quality hardly changes them (pHash, Zauner 2010). A
    picture of one colour has no waves; its bits say how bright it is.
    """
    side = 4 * WAVES
    grey = as_rgb(picture).convert("L").resize((side, side), Image.Resampling.LANCZOS)
    values = np.asarray(grey, dtype=float)
    if values.std() < FLAT:
        bits = WAVES * WAVES - 1
        return values.mean() > np.arange(bits) * 256 / bits
    waves = dctn(values, norm="ortho")[:WAVES, :WAVES].flatten()[1:]
    return waves > np.median(waves)


def near_duplicates(first: Pictures, second: Pictures | None = None, most_different: float = 0.15,
                    turned: bool = False) -> pd.DataFrame:
    """Pairs of pictures that look the same, one of each set; or of one set, without a second.

    first, second: an image table, a folder (with those below it), or a list of files or PIL images.
    most_different: the share of the bits of their hashes that may differ. 0.15 finds most pictures
    that were saved again, scaled, brightened or cut by a margin of two per cent; pictures that are
    not copies rarely differ so little: of the 8 million pairs of 4,000 Sentinel-2 tiles, one.
    turned: also those turned or mirrored, as views from above can be. In a folder, hidden files and
    the thumbnails of file servers do not count.
    Returns first, second (names) and different, the most alike first. A pair is a reason to look,
    not a proof. Raises ValueError for an empty set and for a picture that cannot be read.
    """
    if not 0 <= most_different < 1:
        raise ValueError(f"most_different is a share, from 0 to below 1, not {most_different}")
    orientations = 8 if turned else 1
    names, pictures = _opened(first, "the first set")
    if second is None:          # each picture is opened once; its first orientation is as it stands
        others, other_hashes = names, _hashes(names, pictures, orientations)
        hashes = other_hashes[:, :1]
    else:
        hashes = _hashes(names, pictures, 1)
        others, other_pictures = _opened(second, "the second set")
        other_hashes = _hashes(others, other_pictures, orientations)
    bits = hashes.shape[-1]
    found = []
    for start in range(0, len(names), _BLOCK):
        part = hashes[start:start + _BLOCK, 0]
        # Bits as -1 and 1: the product counts those that agree, less those that differ.
        shares = np.stack([(bits - part @ other_hashes[:, k].T) / (2 * bits)
                           for k in range(other_hashes.shape[1])]).min(axis=0)
        for i, j in zip(*np.nonzero(shares <= most_different), strict=True):
            if second is not None or start + i < j:
                found.append((names[start + i], others[j], float(shares[i, j])))
    table = pd.DataFrame(found, columns=["first", "second", "different"])
    return table.sort_values("different", kind="stable", ignore_index=True)


def _hashes(names: Sequence[str], pictures: Iterable[Image.Image],
            orientations: int) -> np.ndarray:
    """(pictures, orientations, bits), -1 and 1."""
    rows = []
    for name, picture in zip(names, pictures, strict=True):
        upright = as_rgb(picture, name)
        rows.append([np.where(perceptual_hash(turn_image(upright, k) if k else upright), 1, -1)
                     for k in range(orientations)])
    return np.stack(rows).astype(np.float32)


def _opened(pictures: Pictures, what: str) -> tuple[list[str], _Lazily]:
    if isinstance(pictures, ImageTable):
        names = [pictures.where(row) for row in range(len(pictures))]
        found = _Lazily(len(pictures), pictures.image)
    else:
        if isinstance(pictures, str | Path):
            folder = Path(pictures)
            if not folder.is_dir():
                raise ValueError(f"{folder}: is not a folder: give one, a list of files, or an "
                                 "image table")
            pictures, what = sorted(_files_below(folder)), str(folder)
        items = list(pictures)
        for k, item in enumerate(items):
            if not isinstance(item, Image.Image | str | Path):
                raise ValueError(f"{what}, picture {k}: is a {type(item).__name__}, not a file or "
                                 "a PIL image (Image.fromarray makes one of an array)")
        names = [f"picture {k}" if isinstance(item, Image.Image) else str(item)
                 for k, item in enumerate(items)]
        found = _Lazily(len(items), lambda k: items[k] if isinstance(items[k], Image.Image)
                        else open_image(items[k]))
    if not names:
        raise ValueError(f"{what}: holds no pictures")
    return names, found


def _files_below(folder: Path) -> Iterator[Path]:
    """The pictures of a folder and those below it, also through links, each folder once."""
    seen = set()
    for top, inside, files in os.walk(folder, followlinks=True):
        place = os.path.realpath(top)
        if place in seen:
            inside.clear()                      # a link that leads back
            continue
        seen.add(place)
        inside[:] = [name for name in inside
                     if not name.startswith((".", "__")) and name.lower() not in OF_SYSTEMS]
        yield from (Path(top, name) for name in files
                    if not name.startswith(".") and Path(name).suffix.lower() in SUFFIXES)


class _Lazily(Sequence):
    """Pictures opened one at a time: a whole folder need not fit into memory."""

    def __init__(self, count: int, opened):
        self.count, self.opened = count, opened

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, i: int) -> Image.Image:
        if not 0 <= i < self.count:
            raise IndexError(i)
        return self.opened(i)
