"""Near-duplicates: pictures that are the same to the eye, in two splits or within one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image
from scipy.fft import dctn

from vlm_utils.datasets import ImageTable
from vlm_utils.sources.images import SUFFIXES, open_image
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
    grey = picture.convert("L").resize((side, side), Image.Resampling.LANCZOS)
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
    turned: also those turned or mirrored, as views from above can be.
    Returns first, second (names) and different, the most alike first. A pair is a reason to look,
    not a proof. Raises ValueError for an empty set and for a picture that cannot be read.
    """
    names, pictures = _opened(first, "the first set")
    hashes = _hashes(pictures)
    if second is None:
        others, other_hashes = names, _hashes(pictures, 8 if turned else 1)
    else:
        others, other_pictures = _opened(second, "the second set")
        other_hashes = _hashes(other_pictures, 8 if turned else 1)
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


def _hashes(pictures, orientations: int = 1) -> np.ndarray:
    """(pictures, orientations, bits), -1 and 1."""
    return np.stack([[np.where(perceptual_hash(turn_image(picture, k) if k else picture), 1, -1)
                      for k in range(orientations)] for picture in pictures]).astype(np.float32)


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
            pictures = [file for file in sorted(folder.rglob("*"))
                        if file.suffix.lower() in SUFFIXES]
            what = str(folder)
        items = list(pictures)
        names = [f"picture {k}" if isinstance(item, Image.Image) else str(item)
                 for k, item in enumerate(items)]
        found = _Lazily(len(items), lambda k: items[k] if isinstance(items[k], Image.Image)
                        else open_image(items[k]))
    if not names:
        raise ValueError(f"{what}: holds no pictures")
    return names, found


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
