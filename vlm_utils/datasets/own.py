"""Samples of the user's own: any images, any question, any answer."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Iterable, Mapping, Set

import pyarrow as pa
import pyarrow.compute
from datasets import Dataset, List
from datasets import Image as ImageFeature
from PIL import Image

from vlm_utils.architecture import IMAGE_TOKEN, named_images
from vlm_utils.datasets.samples import TaskDataset
from vlm_utils.datasets.tables import ImageTable
from vlm_utils.datasets.truth import Recipe, Truth, images_first
from vlm_utils.sources.images import UnreadableImage, as_rgb, open_file, open_image

_COLUMNS = ("images", "prompt", "answer")


def own_samples(rows: Dataset | Iterable[Mapping], name: str = "own samples",
                refused: list[tuple[int, str]] | None = None) -> TaskDataset:
    """Samples to train, predict and evaluate with, from rows of `images`, `prompt` and `answer`.

    rows: a `datasets.Dataset`, or mappings. images: none to many, as paths, bytes or PIL images;
    each is opened once, here, and what several samples share is kept once. prompt: one `<image>`
    where each image goes; a prompt without any gets all of them in front. answer: a text, or None
    if it is not known. task (optional): a name that summaries are grouped by. refused: a list that
    takes the number of every row with an image that cannot be read, and the reason; these rows are
    left out. Without such a list the first of them raises.
    Raises ValueError naming the row, and image, that cannot be used.
    """
    if isinstance(rows, Mapping | str) or not isinstance(rows, Iterable) or hasattr(rows, "iloc"):
        raise ValueError(f"{name}: is a {type(rows).__name__}, not a list of rows: give a list of "
                         f"mappings of {', '.join(_COLUMNS)}, or a datasets.Dataset (of a "
                         "DatasetDict one split; of a pandas table, table.to_dict('records'))")
    if isinstance(rows, Dataset):
        stored, texts = _of_dataset(rows, name)
    else:
        stored, texts = _of_mappings(rows, name)
    if not texts:
        raise ValueError(f"{name}: holds no rows")
    first: dict[str, int] = {}                  # by content: the position that an image is kept at
    kept, recipes, i = [], [], 0
    for number, (text, count) in enumerate(texts):
        where, positions = f"{name}, row {number}", []
        places, i = range(i, i + count), i + count
        try:
            for k, place in enumerate(places, start=1):
                digest = _check(stored[place]["image"], f"{where}, image {k}", first)
                if digest not in first:
                    first[digest] = len(kept)
                    kept.append(place)
                positions.append(first[digest])
        except UnreadableImage as error:
            if refused is None:
                raise
            refused.append((number, str(error)))
            continue
        recipes.append(_recipe(text, tuple(positions), where))
    if not recipes:
        raise ValueError(f"{name}: no row has images that can be read ({refused[0][1]})")
    images = stored.select(kept)
    images._fingerprint = hashlib.sha256("".join(first).encode()).hexdigest()[:16]
    files = [os.path.basename(path or "") for path in (row["path"] for row in images["image"])]
    truth = Truth([None] * len(kept), [[] for _ in kept], [(row,) for row in range(len(kept))])
    return TaskDataset(ImageTable(name, images, truth, files=files), recipes)


def _of_dataset(rows: Dataset, name: str) -> tuple[Dataset, list[tuple[Mapping, int]]]:
    """All images of all rows, none decoded or copied; the other columns, with their counts."""
    _check_columns(rows.column_names, name)
    rows = rows.flatten_indices() if rows._indices is not None else rows
    try:
        rows = rows.cast_column("images", List(ImageFeature(decode=False)))
    except (TypeError, ValueError, NotImplementedError) as error:
        raise ValueError(f"{name}: images is a column of {rows.features['images']}, not of lists "
                         f"of images ({error})") from error
    lists = rows.data.column("images")
    flat = pa.chunked_array([chunk.flatten() for chunk in lists.chunks],
                            type=lists.type.value_type)
    counts = [length or 0 for length in pa.compute.list_value_length(lists).to_pylist()]
    stored = Dataset.from_dict({"image": flat}).cast_column("image", ImageFeature(decode=False))
    return stored, list(zip(rows.remove_columns("images"), counts, strict=True))


def _of_mappings(rows: Iterable[Mapping], name: str) -> tuple[Dataset, list[tuple[Mapping, int]]]:
    known: dict[int, dict] = {}                 # PIL images by identity: each is packed once
    stored, texts, alive = [], [], []
    for number, row in enumerate(rows):
        where = f"{name}, row {number}"
        if not isinstance(row, Mapping):
            raise ValueError(f"{where}: is a {type(row).__name__}, not a mapping of "
                             f"{', '.join(_COLUMNS)}")
        _check_columns(row, where)
        images = row["images"]
        if isinstance(images, str | bytes | os.PathLike | Image.Image):
            raise ValueError(f"{where}: images is one image: give a list, even of one")
        if images is not None and (not isinstance(images, Iterable)
                                   or isinstance(images, Set | Mapping)):   # they have no order
            raise ValueError(f"{where}: images is a {type(images).__name__}, not a list of images")
        images = list(() if images is None else images)
        for k, image in enumerate(images, start=1):
            if id(image) not in known:
                known[id(image)] = _pack(image, f"{where}, image {k}")
                alive.append(image)             # so that no later image gets its identity
            stored.append(known[id(image)])
        texts.append((row, len(images)))
    column = ImageFeature(decode=False)
    packed = pa.array(stored, type=column.pa_type)
    return Dataset.from_dict({"image": packed}).cast_column("image", column), texts


def _pack(image, where: str) -> dict:
    """An image as `datasets` stores it."""
    if isinstance(image, Image.Image):
        stream = io.BytesIO()
        as_rgb(image, where).save(stream, format="png")
        return {"bytes": stream.getvalue(), "path": None}
    if isinstance(image, bytes):
        return {"bytes": image, "path": None}
    if isinstance(image, str | os.PathLike):
        return {"bytes": None, "path": os.path.abspath(image)}
    raise ValueError(f"{where}: is a {type(image).__name__}, not a path, bytes or a PIL image"
                     + (" (Image.fromarray makes one of an array)" if hasattr(image, "shape")
                        else ""))


def _check(stored: dict, where: str, known: Mapping[str, int]) -> str:
    """The SHA-256 of an image, which is opened if it is new. Raises ValueError naming it."""
    stored = stored or {"bytes": None, "path": None}        # None in a column of a Dataset
    source = stored["bytes"] or stored["path"]
    label = where if stored["path"] is None else f"{where} ({stored['path']})"
    if not source:
        raise ValueError(f"{where}: is missing")
    digest = hashlib.sha256()
    with open_file(source, label) as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    if digest.hexdigest() not in known:
        open_image(source, label)
    return digest.hexdigest()


def _recipe(row: Mapping, positions: tuple[int, ...], where: str) -> Recipe:
    """One row as a sample. Raises ValueError naming it if its texts do not fit its images."""
    prompt, answer, task = row["prompt"], row["answer"], row.get("task") or "own"
    for column, value in (("prompt", prompt), ("answer", answer), ("task", task)):
        if column == "answer" and value is None:
            continue
        if not isinstance(value, str) or not value.replace(IMAGE_TOKEN, "").strip():
            raise ValueError(f"{where}: {column} is {value!r}, not a text")
    count = len(positions)
    if IMAGE_TOKEN not in prompt:
        prompt = images_first(count, prompt)
    if prompt.count(IMAGE_TOKEN) != count:
        raise ValueError(f"{where}: the prompt has {prompt.count(IMAGE_TOKEN)} {IMAGE_TOKEN} and "
                         f"the row {count} images: write one for each, or none at all")
    absent = [k for k in named_images(f"{prompt} {answer or ''}") if not 1 <= k <= count]
    if absent:
        raise ValueError(f"{where}: <image_{absent[0]}> is named, and the row has {count} images")
    return Recipe(positions, prompt, answer, task)


def _check_columns(found: Iterable[str], where: str) -> None:
    missing = [name for name in _COLUMNS if name not in found]
    if missing:
        raise ValueError(f"{where}: lacks {', '.join(missing)} (found: "
                         f"{', '.join(map(str, found)) or 'nothing'})")
