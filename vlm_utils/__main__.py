"""Commands of the course: `python -m vlm_utils course`, `check`, `train`, `doctor` and more."""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import fields
from pathlib import Path

from vlm_utils.profiles import (
    REPOSITORY,
    TrainingSettings,
    get_profile,
    image_folder,
    output_folder,
    settle_paths,
)

NOTEBOOKS = REPOSITORY / "notebooks"


# Each command imports what it needs when it runs: `doctor` must answer where torch cannot load.

def course(options) -> int:
    from vlm_utils.course.runner import run_course
    return run_course(NOTEBOOKS, options.output or output_folder(), options.lessons, options.write)


def check(options) -> int:
    from vlm_utils.course.runner import check_course
    return check_course(NOTEBOOKS, options.output or output_folder(), options.lessons,
                        options.profile)


def site(options) -> int:
    from vlm_utils.course.site import stored_site
    return stored_site(NOTEBOOKS, options.output or output_folder())


def progress(options) -> int:
    from vlm_utils.course.progress import progress
    return progress(options.notebooks)


def sync(options) -> int:
    from vlm_utils.course.cells import sync_lessons
    return sync_lessons(NOTEBOOKS)


def draw(options) -> int:
    from vlm_utils.making.readme_picture import draw_readme_picture
    return draw_readme_picture(NOTEBOOKS / "pictures" / "architecture.png")


def prefetch(options) -> int:
    from vlm_utils.course.prefetch import prefetch
    return prefetch(get_profile(os.environ.get("VLM_PROFILE") or "full"), options.folder)


def doctor(options) -> int:
    from vlm_utils.course.doctor import examine
    return examine(get_profile(options.profile))


def train(options) -> int:
    from vlm_utils.scaling.job import run_job
    from vlm_utils.scaling.launch import start_processes
    if options.start_processes > 1:
        return start_processes(options.start_processes, sys.argv[1:])
    return run_job(options.job)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m vlm_utils", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)

    def add(run, text: str, **arguments) -> None:
        command = commands.add_parser(run.__name__, help=text)
        command.set_defaults(run=run)
        for name, settings in arguments.items():
            command.add_argument(name if settings.pop("positional", False) else f"--{name}",
                                 **settings)

    lessons = {"positional": True, "nargs": "*", "help": "numbers, as 01 04; default: all"}
    output = {"type": Path, "help": "where to; default: VLM_OUTPUT, else build/"}
    profile = {"help": "tiny or full; default: VLM_PROFILE, else tiny"}
    add(course, "execute the lessons and build a site of what they showed", lessons=dict(lessons),
        output=dict(output),
        write={"action": "store_true", "help": "store the outputs in the notebooks"})
    add(check, "run the lessons under nbval, with a table", lessons=dict(lessons),
        output=dict(output), profile=dict(profile))
    add(site, "build the site of the lessons as they are stored", output=dict(output))
    add(progress, "print which exercises pass, from the notebooks as they were saved",
        notebooks={"type": Path, "default": NOTEBOOKS, "help": "the folder that holds them"})
    add(sync, "write the modules' source into the marked cells")
    add(draw, "draw the picture of the README")
    add(prefetch, "download what the full profile needs",
        folder={"type": Path, "help": "where to; default: the hub's own cache"})
    add(doctor, "say what is ready here, and what to do if not", profile=dict(profile))
    add(train, "train a model: alone, or as one process of several (cluster.md)",
        profile=dict(profile), **training_options())
    options = parser.parse_args()
    refuse_what_is_not_there(parser, options)
    settle_paths()
    return options.run(options)


def training_options() -> dict[str, dict]:
    """What `train` understands: what to train on and where to, then every number of a training."""
    options = {
        "output": {"type": Path, "required": True, "metavar": "FOLDER",
                   "help": "where the checkpoint goes; an interrupted training there is resumed"},
        "mixture": {"help": 'samples of each task, "select 2: 100, sequence 2-4: 50", or a file '
                            "FILE.json; default: the profile's"},
        "start": {"type": Path, "metavar": "FOLDER",
                  "help": "the checkpoint to start from; default: the profile's base model"},
        "metrics": {"type": Path, "metavar": "FILE",
                    "help": "a line for each step, .jsonl or .csv; default: OUTPUT.metrics.jsonl"},
        "evaluate": {"type": int, "default": 0, "metavar": "N",
                     "help": "at the end, ask N validation questions of each kind"},
        "log-every": {"type": int, "default": 50, "metavar": "N",
                      "help": "steps between printed lines"},
        "processes": {"type": int, "metavar": "N",
                      "help": "start N processes on this machine, without torchrun"},
        "shard": {"action": "store_true",
                  "help": "FSDP2: each process holds a share of the model, not a copy"},
        "restart": {"action": "store_true", "help": "begin again, whatever FOLDER holds"},
        "other-processes": {"action": "store_true",
                            "help": "go on with another number of processes than before"}}
    kinds = {"int": int, "float": float, "str": str}
    for each in fields(TrainingSettings):
        options[each.name.replace("_", "-")] = {
            "type": kinds[each.type], "metavar": each.type.upper(),
            "help": "default: the profile's" + (
                "; samples of all processes together" if each.name == "batch_size" else "")}
    return options


def refuse_what_is_not_there(parser: argparse.ArgumentParser, options) -> None:
    """End with one line if a lesson, a profile or a training is asked for that there is not."""
    try:
        get_profile(getattr(options, "profile", None))
        if getattr(options, "lessons", None):
            from vlm_utils.course.cells import choose
            choose(NOTEBOOKS, options.lessons)
        if options.command in ("course", "check", "train"):
            image_folder()              # raises if VLM_IMAGES names a folder that is not there
        if options.command in ("course", "check", "site"):
            refuse_place("--output" if options.output else "VLM_OUTPUT",
                         options.output or output_folder())
        if options.command == "prefetch" and options.folder is not None:
            refuse_place("--folder", options.folder)
        if options.command == "progress" and not options.notebooks.is_dir():
            raise ValueError(f"--notebooks {options.notebooks} is not a folder: name the one that "
                             "holds your notebooks")
        if options.command == "train":
            from vlm_utils.scaling.launch import processes_to_start
            from vlm_utils.scaling.plan import plan
            options.start_processes = processes_to_start(options.processes)
            options.job = plan(options)
    except (ValueError, OSError) as error:
        if int(os.environ.get("RANK", 0)):              # the first of several processes says it
            sys.exit(2)
        parser.error(str(error))


def refuse_place(name: str, place: Path) -> None:
    """Raise ValueError if nothing can be written into a folder. name: the option that gives it."""
    there = next(part for part in (place.absolute(), *place.absolute().parents) if part.exists())
    if not there.is_dir():
        raise ValueError(f"{name} {place}: {there} is a file, not a folder: name another place")
    if not os.access(there, os.W_OK):
        raise ValueError(f"{name} {place}: nothing can be written into {there}: name another place")


if __name__ == "__main__":
    if sys.argv[1:2] == ["train"]:      # a log of lines, not of a bar's states; tqdm reads it once
        os.environ.setdefault("TQDM_DISABLE", "1")
    sys.exit(main())
