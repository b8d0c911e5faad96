"""Lesson 10's stored measurements: what is promised of them, and that they fit each other."""

import json
import sys

import pytest

from vlm_utils.profiles import REPOSITORY
from vlm_utils.scaling import estimate_features, peak


def stored(name: str) -> dict:
    return json.loads((REPOSITORY / "benchmarks" / f"{name}.json").read_text(encoding="utf-8"))


def test_the_ladder_was_measured_at_real_shapes_and_the_formula_was_right_within_15_percent():
    found = stored("memory_ladder")
    assert found["settings"]["scale"] == "real"
    assert [row["rung"] for row in found["rows"]] == [
        "full", "+ checkpointing", "+ bfloat16", "+ Adafactor", "LoRA"]
    for row in found["rows"]:
        assert row["predicted"]["peak"] / row["measured"] == pytest.approx(1, abs=0.15), row["rung"]
    peaks = [row["measured"] for row in found["rows"]]
    assert peaks == sorted(peaks, reverse=True)


def test_the_stored_parts_make_the_stored_peak():
    """Of full training: the table of embeddings is 49,152 x 576 float32."""
    first = stored("memory_ladder")["rows"][0]["predicted"]
    parts = {name: value for name, value in first.items() if name != "peak"}
    assert first["peak"] == pytest.approx(peak(parts, 49152 * 576 * 4 / 1e6), rel=0.01)


def test_an_adapter_takes_a_quarter_of_the_naive_memory_and_half_of_the_full_and_is_faster():
    ratios = stored("memory_ladder")["ratios"]
    assert ratios["lora_checkpointed_memory_over_naive_with_libraries"] <= 0.25
    for name in ("lora", "lora_checkpointed"):
        assert ratios[f"{name}_memory_over_full_with_libraries"] <= 0.5
    assert ratios["lora_speed_over_full"] >= 1.3


def test_adapters_were_compared_at_equal_steps_with_intervals():
    rows = stored("adapters")["rows"]
    arms = {row["arm"]: row["trained"] for row in rows}
    assert set(arms) == {"full", "rank 4", "rank 32", "projector"}
    assert arms["projector"] < arms["rank 4"] < arms["rank 32"] < arms["full"]
    for row in rows:
        assert row["low"] <= row["accuracy"] <= row["high"]
        assert len(row["seeds"]) == stored("adapters")["settings"]["seeds"]


def test_features_of_a_million_images_follow_from_those_that_were_encoded():
    found = stored("features")
    assert found["scale"] == "real" and found["images"] == 5000
    assert found["megabytes_per_image"] == pytest.approx(196 * 768 * 2 / 1e6, rel=0.02)
    million = estimate_features(1_000_000, found["megabytes_per_image"],
                                found["images_per_second"])
    assert million.gigabytes == pytest.approx(found["a million"]["gigabytes"], rel=0.01)
    assert million.hours == pytest.approx(found["a million"]["hours"], rel=0.01)


@pytest.fixture
def features(monkeypatch):
    monkeypatch.syspath_prepend(str(REPOSITORY / "benchmarks"))
    import features
    yield features
    for name in ("features", "common"):
        sys.modules.pop(name, None)


def test_the_measurement_of_features_goes_on_after_a_kill_and_counts_what_was_lost(
        features, tmp_path):
    """Four images a part; the first run is killed in the middle of its third part."""
    scale = features.SCALES["tiny"]
    table = features.tiles(20, scale.image_size)
    assert len({table.image(row).tobytes() for row in range(20)}) == 20
    model, processor = features.make_ours(scale, scale.merges[1][0], seed=0)
    whole, batches = model.encode_images, []

    def killed(pixels):
        batches.append(len(pixels))
        if len(batches) == 6:
            raise KeyboardInterrupt
        return whole(pixels)

    model.encode_images = killed
    with pytest.raises(KeyboardInterrupt):
        features.encode(table, model, processor, 2, tmp_path, images_per_part=4)
    batches.clear()
    model.encode_images = lambda pixels: batches.append(len(pixels)) or whole(pixels)
    found = features.encode(table, model, processor, 2, tmp_path, images_per_part=4)
    assert sum(batches) == 12                       # the third part again, and two more
    lines = [line.split() for line in (tmp_path / "seconds.txt").read_text().splitlines()]
    assert [run for run, _ in lines] == ["0"] * 5 + ["5"] * 7
    seconds = float(lines[4][1]) + float(lines[-1][1])
    assert found["images_per_second"] == pytest.approx(20 / seconds) and found["runs"] == 2
    assert found["megabytes_per_image"] > 36 * 32 * 2 / 1e6
