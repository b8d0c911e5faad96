"""How lesson 07's model is made: three trainings, one after the other, which can be cut in two."""

import json
from dataclasses import replace

import numpy as np
import pytest
from long_series import few_places

from vlm_utils.datasets import load_series_table, parse_mixture
from vlm_utils.making import more_places, time_model
from vlm_utils.making.more_places import more_series
from vlm_utils.profiles import data_folder
from vlm_utils.tiny_earth import COUNTS, sequence_row

FEW = {"sequence 9-12": 12, "locate 1": 12}


@pytest.fixture
def small(monkeypatch, tmp_path):
    """The maker on a few places: trainings of two steps (the first one's learning
    rate is 0), and few questions."""
    monkeypatch.setenv("VLM_OUTPUT", str(tmp_path / "output"))
    monkeypatch.setattr(time_model, "load_image_table", lambda profile, split: few_places(
        "train" if split == "train" else "test"))
    monkeypatch.setattr(time_model, "MORE_PLACES", 20)
    monkeypatch.setattr(time_model, "TRAININGS", tuple(
        (FEW, {"date 2-8": 4}) for _ in time_model.TRAININGS))
    monkeypatch.setattr(time_model, "WEATHERS_OF", ({"clear": 3},) * len(time_model.TRAININGS))
    monkeypatch.setattr(time_model, "SETTINGS_OF", tuple(
        replace(settings, batch_size=8) for settings in time_model.SETTINGS_OF))
    monkeypatch.setattr(time_model, "WEATHER", ("seasons",))
    monkeypatch.setattr(time_model, "TEST_PLAIN", {"sequence 16": 4})
    monkeypatch.setattr(time_model, "TEST_DATED", {"date 8": 4})
    monkeypatch.setattr(time_model, "TEST_BOXES", {"locate 1": 4, "locate_change 2": 4})
    return time_model


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


def run(maker, monkeypatch, *arguments):
    monkeypatch.setattr("sys.argv", ["time_model", *map(str, arguments)])
    maker.main()


def test_more_than_half_of_the_third_training_has_9_to_16_frames():
    plain, with_date = time_model.TRAININGS[2]
    parts = parse_mixture(plain) + parse_mixture(with_date)
    weather = sum(2 * count for count in time_model.WEATHERS_OF[2].values())
    long = sum(part.samples for part in parts if part.fewest >= 9)
    assert long > (sum(part.samples for part in parts) + weather) / 2
    # What was learnt before is asked for again: nothing in the first two is left out.
    before = {part.task for mixtures in time_model.TRAININGS[:2] for mixture in mixtures
              for part in parse_mixture(mixture)}
    assert before == {part.task for part in parts}


def test_each_training_has_its_own_settings_and_samples():
    assert len(time_model.SETTINGS_OF) == len(time_model.WEATHERS_OF) == len(time_model.TRAININGS)
    seeds = [time_model.settings_of(number, seed=seed).seed
             for number in range(3) for seed in range(3)]
    assert len(set(seeds)) == 9 and time_model.settings_of(2).seed == 2
    assert time_model.settings_of(2, steps=7).steps == 7
    assert time_model.settings_of(2, steps=7).warmup_steps == 7     # not longer than the training


def test_trainings_that_were_cut_in_two_are_those_of_one_run(small, monkeypatch, tmp_path):
    """A trap: the second part must not draw the samples of the first again, nor forget its time."""
    numbers = []
    once = small.train_once
    monkeypatch.setattr(small, "train_once", lambda number, *rest: numbers.append(number) or once(
        number, *rest))
    run(small, monkeypatch, "--until", 1, "--steps", 2, "--output", tmp_path / "first")
    first = json.loads((tmp_path / "first" / "figures.json").read_text())
    assert numbers == [0] and first["steps"] == [2]
    (tmp_path / "first" / "figures.json").write_text(json.dumps(first | {"minutes": 20.0}))
    run(small, monkeypatch, "--after", 1, "--start", tmp_path / "first", "--steps", 2,
        "--output", tmp_path / "all")
    figures = json.loads((tmp_path / "all" / "figures.json").read_text())
    assert numbers == [0, 1, 2] and figures["steps"] == [2, 2, 2]
    assert 20 < figures["minutes"] < 25
    assert [row["task"] for row in figures["tasks"]] == ["date", "sequence"]
    assert set(figures["boxes"]) == {"locate", "locate_change"}
    weights = [(folder / "model.safetensors").read_bytes() for folder in (
        data_folder() / "tiny_vlm", tmp_path / "first", tmp_path / "all")]
    assert len(set(weights)) == 3
    assert json.loads((tmp_path / "first" / "figures.json").read_text())["minutes"] == 20.0


@pytest.mark.parametrize(("arguments", "message"), [
    (("--after", 2, "--until", 2), "--until is a number from 3 to 3, not 2"),
    (("--until", 4), "--until is a number from 1 to 3, not 4")])
def test_a_training_that_is_not_there_is_refused(small, monkeypatch, capsys, tmp_path, arguments,
                                                 message):
    with pytest.raises(SystemExit):
        run(small, monkeypatch, *arguments, "--output", tmp_path / "model")
    assert message in capsys.readouterr().err and not (tmp_path / "model").exists()
