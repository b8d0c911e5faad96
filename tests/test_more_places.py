"""Places that data/ does not hold: drawn once, and the same for everyone."""

import numpy as np

from vlm_utils.datasets import load_series_table
from vlm_utils.making import more_places
from vlm_utils.making.more_places import more_series
from vlm_utils.tiny_earth import COUNTS, sequence_row


def test_more_places_follow_the_stored_ones_and_are_drawn_once(monkeypatch, tmp_path):
    """A trap: places of the training table again, of which it tells 99.9% already."""
    monkeypatch.setenv("VLM_OUTPUT", str(tmp_path))
    drawn, table = [], more_series(3)
    stored = load_series_table("train").truth
    assert len(stored.sites) == COUNTS["sequences"]["train"]
    expected = [sequence_row("train", len(stored.sites) + k) for k in range(3)]
    assert [len(rows) for rows in table.truth.sites] == [len(row["dates"]) for row in expected]
    assert table.truth.dates == [day for row in expected for day in row["dates"]]
    assert [scene.to_json() for scene in table.truth.scenes] == [
        text for row in expected for text in row["scenes"]]
    assert [taken.to_json() for taken in table.truth.conditions] == [
        text for row in expected for text in row["conditions"]]
    first = np.asarray(table.image(0), dtype=float)
    assert abs(first - expected[0]["frames"][0]).mean() < 6            # compressed, as the stored
    monkeypatch.setattr(more_places, "build", lambda *rest, **more: drawn.append(rest))
    again = more_series(3)
    assert not drawn and again.truth.scenes == table.truth.scenes
