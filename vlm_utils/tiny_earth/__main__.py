"""`python -m vlm_utils.tiny_earth` makes the embedded tables again."""

from __future__ import annotations

import argparse
from pathlib import Path

from vlm_utils.profiles import REPOSITORY
from vlm_utils.tiny_earth.build import build


def main() -> None:
    """Rebuild every table: `python -m vlm_utils.tiny_earth [--output FOLDER]`."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--output", type=Path, help="the folder to hold tiny_earth/",
                        default=REPOSITORY / "data")
    build(parser.parse_args().output)


if __name__ == "__main__":
    main()
