"""What the options of `python -m vlm_utils train` ask for, understood before anything is loaded."""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass, fields
from pathlib import Path

from vlm_utils.datasets.mixture import TASKS, parse_mixture
from vlm_utils.profiles import Profile, TrainingSettings, get_profile
from vlm_utils.scaling.sharding import Shards
from vlm_utils.sources.checkpoints import absolute, brief, check_place
from vlm_utils.sources.folders import beside
from vlm_utils.training import Copies

_FIRST = (b'{"step": ', b"step,samples,")       # of a file of metrics


@dataclass(frozen=True)
class Job:
    """What a job is to do, as `plan` has understood its options."""

    profile: Profile
    mixture: dict[str, int]
    settings: TrainingSettings
    given: frozenset[str]           # the settings that were given, and not taken from the profile
    output: Path
    metrics: Path
    start: Path | None
    evaluate: int
    log_every: int
    restart: bool
    other_processes: bool
    layout: Copies


def plan(options) -> Job:
    """The job that the options of the command describe.

    Raises ValueError, FileNotFoundError or OSError with one sentence if there is no such job.
    """
    profile = get_profile(options.profile)
    mixture = profile.mixture if options.mixture is None else read_mixture(options.mixture)
    check_mixture(mixture, profile.max_images if options.start is None else None)
    names = [each.name for each in fields(TrainingSettings)]
    given = {name: value for name in names if (value := getattr(options, name)) is not None}
    changes = dict(given)
    if "steps" in given and "warmup_steps" not in given:    # a shorter run warms up for less long
        share = profile.training.warmup_steps / profile.training.steps
        changes["warmup_steps"] = max(1, round(share * given["steps"])) if given["steps"] > 0 else 0
    settings = TrainingSettings.of(profile, **changes)
    output = absolute(options.output)
    check_place(output, 0)
    metrics = absolute(options.metrics or output.with_name(f"{output.name}.metrics.jsonl"))
    check_metrics(metrics, output)
    processes = max(options.start_processes, int(os.environ.get("WORLD_SIZE", 1)))
    if "batch_size" in given and given["batch_size"] < processes:
        raise ValueError(f"--batch-size {given['batch_size']} is of all processes together, and "
                         f"there are {processes}: give each of them a sample at least")
    if options.shard and processes > 1 and settings.optimizer == "adafactor":
        raise ValueError("--shard: torch's Adafactor does not work on shares of a matrix. Take "
                         "--optimizer adamw or muon, or leave --shard out")
    if options.start is not None and not options.start.is_dir():
        raise FileNotFoundError(f"--start {options.start} is not a folder")
    for name, least in (("evaluate", 0), ("log_every", 1)):
        if getattr(options, name) < least:
            raise ValueError(f"--{name.replace('_', '-')} is at least {least}, not "
                             f"{getattr(options, name)}")
    return Job(profile, mixture, settings, frozenset(given), output, metrics, options.start,
               options.evaluate, options.log_every, options.restart, options.other_processes,
               Shards() if options.shard else Copies())


def check_mixture(mixture: dict[str, int], max_images: int | None) -> None:
    """Raise ValueError for a mixture of no samples, or of more images than the model has names for
    (None: that is not known yet). Otherwise that would be said after all images were encoded."""
    parts = parse_mixture(mixture)
    if not any(part.samples for part in parts):
        raise ValueError("--mixture asks for no sample at all")
    most = max(part.most for part in parts)
    if max_images is not None and most > max_images:
        raise ValueError(f"--mixture asks for samples of {most} images, and the model has names "
                         f"for {max_images}")


def check_metrics(metrics: Path, output: Path) -> None:
    """Raise ValueError or OSError if metrics cannot be written there, or would replace what no
    training has written."""
    if metrics.suffix not in (".jsonl", ".csv"):
        raise ValueError(f"--metrics {metrics.name} ends in neither .jsonl nor .csv")
    if {output, beside(output)} & set(metrics.parents) or metrics.is_dir():
        raise ValueError(f"--metrics {brief(metrics)} is the folder of the checkpoint, or in it: "
                         "name a file beside it")
    nearest = next(path for path in metrics.parents if path.exists())
    if not nearest.is_dir():
        raise ValueError(f"--metrics {brief(metrics)}: {brief(nearest)} is a file, not a folder")
    if metrics.exists() and not _is_metrics(metrics):
        raise ValueError(f"--metrics {brief(metrics)} is there, and it is not a file of metrics: "
                         "name another, or remove it")
    if not os.access(metrics if metrics.exists() else nearest, os.W_OK):
        raise ValueError(f"--metrics {brief(metrics)} cannot be written: choose another place")


def _is_metrics(file: Path) -> bool:
    """Does a file begin as one that a training has written, as far as it got?

    After a power cut it may be empty, cut in its first line, or full of zeros.
    """
    with file.open("rb") as opened:
        first = opened.readline(1000).strip(b"\0")
    return any(first.startswith(begins[:len(first)]) for begins in _FIRST)


def read_mixture(text: str) -> dict[str, int]:
    """{"select 2": 100, "sequence 2-4": 50} of "select 2: 100, sequence 2-4: 50", or of a file of
    JSON. Raises ValueError saying what cannot be read, and FileNotFoundError."""
    if text.strip().endswith(".json"):
        path = Path(text.strip())
        if not path.is_file():
            raise FileNotFoundError(f"--mixture {path} is not a file")
        try:
            mixture = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"--mixture {path} is not JSON ({error})") from None
        if not isinstance(mixture, dict) or not all(type(n) is int for n in mixture.values()):
            raise ValueError(f"--mixture {path} does not hold an object such as "
                             '{"select 2": 100, "sequence 2-4": 50}')
    else:
        mixture = {}
        for part in text.split(","):
            match = re.fullmatch(r"\s*(\S+ [\d-]+)\s*:\s*([\d_]+)\s*", part)
            if match is None:
                raise ValueError(
                    f'--mixture: {part.strip()!r} is not "TASK IMAGES: SAMPLES", as in "select 2: '
                    f'100, sequence 2-4: 50"; tasks are {", ".join(TASKS)}')
            if match[1] in mixture:
                raise ValueError(f"--mixture names {match[1]!r} twice")
            mixture[match[1]] = int(match[2])
    parse_mixture(mixture)
    return mixture
