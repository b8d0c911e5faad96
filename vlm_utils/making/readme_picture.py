"""The picture of the README: `python -m vlm_utils draw`."""

from __future__ import annotations

from pathlib import Path

from vlm_utils import plots, tiny_earth
from vlm_utils.datasets import COMPARE_PROMPT


def draw_readme_picture(path: Path) -> int:
    """The architecture, with a pair of test images and the true answer to them."""
    series = tiny_earth.load_sequences("test")
    place = next(row for row in series if row["event"] == "grow")
    scenes = [tiny_earth.Scene.from_json(text) for text in place["scenes"]]
    figure = plots.draw_architecture(
        place["frames"][0], place["frames"][-1], COMPARE_PROMPT,
        tiny_earth.describe_change(scenes[0], scenes[-1]))
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(plots.to_png(figure, dpi=110))
    print(path)
    return 0
