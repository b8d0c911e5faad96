"""TEOChatlas: questions about sequences of satellite images (Irvin et al. 2024,
github.com/ermongroup/TEOChat)

A JSON list of {"id", "video", "conversations", "task", "dataset", "timestamp", "polygon"}. Its
repository on the hub relies on a loading script, which `datasets` no longer runs: download the JSON
files and unpack the archive of images beside them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from vlm_utils.architecture import IDENTIFIER_PATTERN, IMAGE_TOKEN, as_text, identifier
from vlm_utils.datasets import ImageTable, Recipe, build_tasks
from vlm_utils.real_data.records import (
    Reading,
    RealData,
    Row,
    json_list,
    needs_scenes,
    take,
    write_json,
    write_picture,
)
from vlm_utils.real_data.shapes import box_polygon, parse_boxes, parse_polygons
from vlm_utils.sources.dates import parse_date

VIDEO, MAX_IMAGES = "<video>", 16
_NAMED = re.compile(r"\b[Ii]mage (\d+)\b")


def read_teochatlas(folder: str | Path, file: str, tasks: Sequence[str] | None = None,
                    max_images: int = MAX_IMAGES, most: int | None = None,
                    seed: int = 0) -> RealData:
    """The questions of one JSON file, a sample for each question and its answer.

    folder: into which the images were unpacked; file: the JSON file in it. tasks: only these.
    `<video>` becomes one `<image>` for each picture, and "image 2" its name, `<image_2>`;
    `as_teochat` of lesson 07 writes both as TEOChat does. Pictures come in the order of their
    timestamps, which reach no prompt. Of more than max_images, some are taken at even distances,
    as TEOChat does; a question that then names a picture by its number is dropped.
    rows: name (the id), where, dataset, polygons (lists of (x, y) in pixels of 256 x 256, None if
    the file has none). Raises ValueError naming file and row if an entry cannot be read.
    """
    path, reading, others = Path(folder) / file, Reading(f"TEOChatlas {Path(file).stem}"), {}
    tasks = [tasks] if isinstance(tasks, str) else tasks
    if not isinstance(max_images, int) or max_images < 1:
        raise ValueError(f"max_images is a whole number of at least 1, not {max_images!r}")
    if not path.is_file():
        raise FileNotFoundError(f"{path}: is not there: give the folder into which the images were "
                                "unpacked, and the name of the JSON file in it")
    for where, record in json_list(path):
        reading.read += 1
        task = take(record, "task", str, where)
        if tasks is not None and task not in tasks:
            others[task] = others.get(task, 0) + 1
            continue
        name = where if record.get("id") is None else str(record["id"])
        images, dates, mended = _images(record, Path(folder), max_images, where)
        for why in mended:
            reading.note("mended", name, where, why)
        turns = _turns(record, where)
        if len(turns) > 1:
            reading.note("mended", name, where, f"{len(turns)} questions, a sample each")
        for question, answer in turns:
            reading.rows += _row(reading, record, images, dates, question, answer, name, where)
    if others and sum(others.values()) == reading.read:
        raise ValueError(f"{path}: no row is of {', '.join(tasks) or 'no task'}; its tasks are "
                         f"{', '.join(sorted(others))}")
    if others:
        count = sum(others.values())
        reading.note("left out", f"{count} rows", path.name,
                     f"of tasks not asked for ({', '.join(sorted(others))})", count)
    return reading.finish(most, seed)


def _row(reading: Reading, record: dict, images, dates, question: str, answer: str, name: str,
         where: str) -> list[Row]:
    """One question as a row; none, with a note, if it cannot be asked."""
    kept = len(images)
    if not clean_text(question) or not answer.strip():
        reading.note("empty", name, where, "a question or its answer is empty")
        reading.note("dropped", name, where, "a question or its answer is empty")
        return []
    named = {int(k) for k in _NAMED.findall(f"{question} {answer}")}
    if kept < len(record["video"]) and named:
        reading.note("dropped", name, where, f"names image {min(named)}, and of "
                     f"{len(record['video'])} images only {kept} are kept")
        return []
    if absent := named - set(range(1, kept + 1)):
        reading.note("dropped", name, where, f"names image {min(absent)} of {kept}")
        return []
    details = {"dataset": record.get("dataset", ""), "polygons": _polygons(record, where)}
    return [Row(images, IMAGE_TOKEN * kept + _with_names(clean_text(question)),
                _with_names(answer.strip()), record["task"], name, where, details, dates=dates)]


def clean_text(question: str) -> str:
    """A question without the sign for its images, which all come in front."""
    return question.replace(VIDEO, " ").strip()


def _with_names(text: str) -> str:
    return _NAMED.sub(lambda match: identifier(int(match[1])), as_text(text))


def _images(record: dict, folder: Path, max_images: int, where: str
            ) -> tuple[list[Path], list[str], list[str]]:
    """The files in order of time, their dates, and what had to be done for that."""
    names, mended = take(record, "video", list, where), []
    if not names or not all(isinstance(name, str) and name for name in names):
        raise ValueError(f"{where}: video is {names!r:.60}, not a list of names of files")
    stamps = record.get("timestamp") or []
    if not isinstance(stamps, list):
        raise ValueError(f"{where}: timestamp is {stamps!r:.60}, not a list, one for each image")
    if stamps and len(stamps) != len(names):
        raise ValueError(f"{where}: has {len(names)} images and {len(stamps)} timestamps")
    dates = [_date(stamp, where) for stamp in stamps]
    order = list(range(len(names)))
    if dates and all(dates):
        order.sort(key=lambda k: (dates[k], str(stamps[k])))
        if order != sorted(order):
            mended.append("its images were not in order of time")
    elif any(dates):
        mended.append("not all its timestamps are dates: its images keep their order")
    if len(order) > max_images:
        chosen = np.linspace(0, len(order) - 1, max_images).round().astype(int)
        mended.append(f"{max_images} of {len(order)} images are kept")
        order = [order[k] for k in chosen]
    return ([folder / names[k] for k in order], [dates[k] for k in order] if dates else [], mended)


def _date(stamp, where: str) -> str:
    """A timestamp as an ISO date, "" if it cannot be read: dates only sort here."""
    try:
        return parse_date(stamp, where) or ""
    except ValueError:
        return ""


def _turns(record: dict, where: str) -> list[tuple[str, str]]:
    """Questions and answers of a conversation in turn."""
    turns = take(record, "conversations", list, where)
    said = [(turn.get("from"), turn.get("value")) if isinstance(turn, dict) else (None, None)
            for turn in turns]
    speakers = [speaker for speaker, _ in said]
    if not said or len(said) % 2 or speakers != ["human", "gpt"] * (len(said) // 2):
        raise ValueError(f"{where}: conversations are by {speakers}, not by human and gpt in turn")
    if not all(isinstance(value, str) for _, value in said):
        raise ValueError(f"{where}: a turn of the conversation is not a text")
    return [(said[k][1], said[k + 1][1]) for k in range(0, len(said), 2)]


def _polygons(record: dict, where: str):
    """The polygons of an entry; ['']: there are none; no such key, or an empty one: not known."""
    stored = record.get("polygon")
    if not stored:
        return None
    return parse_polygons(stored, where)


# --- TinyEarth in this format --------------------------------------------------------------------

# The questions of the course as TEOChatlas calls them.
TASKS = {"locate": "spatial_referring_expression", "ask": "question_answering",
         "locate_change": "change_detection_localization",
         "compare": "change_question_answering", "when": "temporal_referring_expression"}


def write_teochatlas(folder: str | Path, table: ImageTable, file: str = "eval_TinyEarth.json",
                     samples: int = 4, seed: int = 0) -> None:
    """Questions about TinyEarth as TEOChatlas writes them, `samples` of each of five tasks.

    As in the real files, names of images are plain text, polygons are WKT in pixels of 256 x 256 or
    [''], and sequences have timestamps.
    """
    needs_scenes(table)
    dataset = build_tasks(table, {"locate 1": samples, "ask 1": samples,
                                  "locate_change 2": samples, "compare 2": samples,
                                  "when 4": samples}, seed)
    entries = []
    for number, recipe in enumerate(dataset.recipes):
        names = [f"TinyEarth/{row:05}.png" for row in recipe.rows]
        for row, name in zip(recipe.rows, names, strict=True):
            write_picture(table.image(row), Path(folder) / name)
        entries.append(_entry(recipe, names, number, table))
    write_json(Path(folder) / file, entries)


def _entry(recipe: Recipe, names: list[str], number: int, table: ImageTable) -> dict:
    def plain(text: str) -> str:
        return IDENTIFIER_PATTERN.sub(lambda match: f"image {match[1]}",
                                      text.replace(IMAGE_TOKEN, "")).strip()

    boxes = parse_boxes(recipe.answer)[0]
    entry = {"id": f"tiny_{number}", "video": names, "task": TASKS[recipe.task],
             "dataset": "TinyEarth",
             "conversations": [{"from": "human", "value": f"{VIDEO}\n{plain(recipe.prompt)}"},
                               {"from": "gpt", "value": plain(recipe.answer)}]}
    dates = [table.truth.dates[row] if table.truth.dates else "" for row in recipe.rows]
    if all(dates) and dates == sorted(dates):
        entry["timestamp"] = [f"{date}T00:00:00" for date in dates]
    if recipe.task.startswith("locate"):
        entry["polygon"] = [box_polygon(box) for box in boxes] or [""]
    return entry
