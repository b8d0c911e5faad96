"""What a run may write into the output folder: nothing there that is somebody else's.

VLM_OUTPUT may name any folder of the user's, which may hold a site, an index.html or a worked copy
of a lesson under the very names that a run uses.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from vlm_utils.profiles import REPOSITORY

RECORD = "course_files.txt"     # beside what runs have made: its names, one per line


def claim(output: Path, names: Iterable[str]) -> None:
    """Take files and folders of the output folder for this run, and write down that they are ours.

    Raises FileExistsError, before anything is written, naming those that are there already and
    that no earlier run has claimed. build/ in the repository is ours.
    """
    if output.resolve() == REPOSITORY / "build":
        return
    names, record = set(names), output / RECORD
    ours = set(record.read_text(encoding="utf-8").splitlines()) if record.is_file() else set()
    foreign = sorted(name for name in names - ours if (output / name).exists())
    if foreign:
        raise FileExistsError(
            f"{output} holds {', '.join(foreign)}, which no run of the course has made, and which "
            "it would replace: move what is yours, or set VLM_OUTPUT to another folder")
    output.mkdir(parents=True, exist_ok=True)
    record.write_text("\n".join(sorted(ours | names)) + "\n", encoding="utf-8")
