"""Commands of the course: `python -m vlm_utils course`, `check`, `doctor`, `prefetch`."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path


def main() -> int:
    root = Path(__file__).resolve().parents[1]
    parser = argparse.ArgumentParser(prog="python -m vlm_utils", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    course = commands.add_parser("course", help="execute the lessons and write HTML pages")
    course.add_argument("lessons", nargs="*", help="numbers, as 01 04; default: all")
    course.add_argument("--output", type=Path, default=root / "build")
    course.add_argument("--write", action="store_true", help="store the outputs in the notebooks")
    check = commands.add_parser("check", help="run the lessons under nbval, with a table")
    check.add_argument("lessons", nargs="*", help="numbers, as 01 04; default: all")
    check.add_argument("--output", type=Path, default=root / "build")
    check.add_argument("--profile", help="tiny or full; default: VLM_PROFILE, else tiny")
    commands.add_parser("sync", help="write the modules' source into the marked cells")
    commands.add_parser("draw", help="draw the picture of the README")
    prefetch = commands.add_parser("prefetch", help="download what the full profile needs")
    prefetch.add_argument("--folder", type=Path, help="where to; default: the hub's own cache")
    doctor = commands.add_parser("doctor", help="say what is ready here, and what to do if not")
    doctor.add_argument("--profile", help="tiny or full; default: VLM_PROFILE, else tiny")
    options = parser.parse_args()
    if options.command in ("prefetch", "doctor"):
        from vlm_utils import hub, profiles
        if options.command == "prefetch":
            return hub.prefetch(profiles.get_profile(os.environ.get("VLM_PROFILE") or "full"),
                                options.folder)
        from vlm_utils import doctor
        return doctor.examine(profiles.get_profile(options.profile))
    if options.command == "draw":
        return _draw(root / "notebooks" / "pictures" / "architecture.png")
    from vlm_utils import notebooks
    if options.command == "course":
        return notebooks.run_course(root / "notebooks", options.output, options.lessons,
                                    options.write)
    if options.command == "check":
        return notebooks.check_course(root / "notebooks", options.output, options.lessons,
                                      options.profile)
    import nbformat
    for path in notebooks.lessons(root / "notebooks"):
        notebook = nbformat.read(path, as_version=4)
        notebooks.fill_marked_cells(notebook, path.parent)
        nbformat.write(notebook, path)
    return 0


def _draw(path: Path) -> int:
    """The README's picture, of a pair of test images and the true answer to them."""
    from vlm_utils import plots, tasks, tiny_earth
    series = tiny_earth.load_sequences("test")
    place = next(row for row in series if row["event"] == "grow")
    scenes = [tiny_earth.Scene.from_json(text) for text in place["scenes"]]
    figure = plots.draw_architecture(
        place["frames"][0], place["frames"][-1], tasks.COMPARE_PROMPT,
        tiny_earth.describe_change(scenes[0], scenes[-1]))
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(plots.as_picture(figure, "", dpi=110).data)
    print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
