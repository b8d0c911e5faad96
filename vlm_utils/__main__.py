"""Commands of the course: `python -m vlm_utils course`, `check`, `progress`, `doctor` and more."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from vlm_utils.profiles import REPOSITORY, get_profile, output_folder, settle_paths

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
    options = parser.parse_args()
    refuse_what_is_not_there(parser, options)
    settle_paths()
    return options.run(options)


def refuse_what_is_not_there(parser: argparse.ArgumentParser, options) -> None:
    """End with one line if a lesson or a profile is asked for that there is not."""
    try:
        get_profile(getattr(options, "profile", None))
        if getattr(options, "lessons", None):
            from vlm_utils.course.cells import choose
            choose(NOTEBOOKS, options.lessons)
    except (ValueError, FileNotFoundError) as error:
        parser.error(str(error))


if __name__ == "__main__":
    sys.exit(main())
