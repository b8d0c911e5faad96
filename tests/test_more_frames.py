"""benchmarks/more_frames.py: which part of an answer is wrong, and what is trained once only."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from long_series import few_places

from vlm_utils.datasets import Truth
from vlm_utils.evaluation import grade
from vlm_utils.profiles import REPOSITORY, data_folder
from vlm_utils.tiny_earth import Conditions, Scene

TRUE = "A fire appears in the top left in <image_7> and disappears in <image_12>."
CLEAR, CLOUD, AUTUMN = Conditions(), Conditions(cloud=(0, 0, 40, 40)), Conditions(season="autumn")


@pytest.fixture
def more_frames(monkeypatch, tmp_path):
    monkeypatch.setenv("VLM_OUTPUT", str(tmp_path / "output"))
    monkeypatch.syspath_prepend(str(REPOSITORY / "benchmarks"))
    import more_frames
    return more_frames


@pytest.fixture(scope="module")
def table():
    return few_places()


# --- mistakes ----------------------------------------------------------------------------------

@pytest.mark.parametrize(("answer", "prediction", "parts"), [
    (TRUE, TRUE, []),
    (TRUE, TRUE.replace("7", "8"), ["image"]),
    (TRUE, TRUE.replace("12", "1"), ["image"]),         # a trap: <image_1> begins <image_12>
    (TRUE, TRUE.replace("fire", "ship"), ["what"]),
    (TRUE, TRUE.replace("top left", "top right"), ["where"]),
    (TRUE, "A fire appears in the top left in <image_7>.", ["event", "image"]),
    (TRUE, "Nothing changes.", ["event", "what", "where", "image"]),
    ("The forest becomes cropland in <image_9>.", "The forest becomes grassland in <image_9>.",
     ["what"]),
    ("The ship moves from the top left to the bottom left.",
     "The ship moves from the bottom left to the top left.", ["where"]),
    ("A road appears down the left in <image_9>.", "A road appears across the top in <image_9>.",
     ["where"]),
    ("The lake in the top left grows.", "The lake in the top left shrinks.", ["event"])])
def test_the_wrong_parts_of_an_answer_are_named(more_frames, answer, prediction, parts):
    assert more_frames.wrong_parts(answer, prediction) == parts


@pytest.mark.parametrize(("taken", "weather"), [
    ([CLEAR, CLEAR], "clear"), ([CLEAR, CLOUD, CLEAR], "clouds"), ([CLOUD, AUTUMN], "clouds"),
    ([CLEAR, AUTUMN], "seasons"), ([AUTUMN, AUTUMN], "clear"),
    ([CLEAR, Conditions(repeats=True)], "repeats")])
def test_a_series_is_taken_in_the_weather_of_any_of_its_frames(more_frames, table, taken, weather):
    truth = Truth([Scene("forest")] * len(taken), [[]] * len(taken), [tuple(range(len(taken)))],
                  conditions=taken)
    known = type(table)("series", table.dataset.select(range(len(taken))), truth)
    assert more_frames.weather_of(known, truth.sites[0]) == weather


def test_a_series_is_compared_rightly_only_if_each_pair_of_neighbours_is(more_frames, table,
                                                                       monkeypatch):
    series = table.truth.sites[:3]

    def all_but_one(model, processor, asked):
        told = pd.DataFrame({
            "task": "compare", "num_images": 2, "prompt": [r.prompt for r in asked.recipes],
            "answer": [r.answer for r in asked.recipes]})
        assert [r.rows for r in asked.recipes] == [
            (rows[k], rows[k + 1]) for rows in series for k in range(len(rows) - 1)]
        told["prediction"] = told["answer"]
        told.loc[20, "prediction"] = "The lake in the top left grew and grew."  # of the second
        return told

    monkeypatch.setattr(more_frames, "predict", all_but_one)
    assert more_frames.all_pairs_right(None, None, table, list(series)) == pytest.approx(2 / 3)
    assert np.isnan(more_frames.all_pairs_right(None, None, table, []))


def test_mistakes_are_those_of_long_series(more_frames, table, monkeypatch):
    monkeypatch.setattr(more_frames, "all_pairs_right",
                        lambda model, processor, table, series: 0.1 * len(series))
    rows = table.truth.sites[0]
    graded = grade(pd.DataFrame({
        "task": ["sequence"] * 4 + ["refer"], "num_images": [8, 16, 16, 4, 16],
        "prompt": "What happens over time?", "answer": TRUE,
        "prediction": [TRUE, TRUE.replace("7", "8"), TRUE.replace("fire", "ship"), "no", "no"],
        "rows": [rows[:8], rows, rows[::-1], rows[:4], rows]}))
    found = more_frames.mistakes(None, None, table, graded)
    assert (found["series"], found["wrong"]) == (3, 2)
    assert found["places"] == found["wrong_places"] == 1    # all three show the same place
    assert found["parts"] == {"event": 0, "what": 1, "where": 0, "image": 1}
    assert sum(each["series"] for each in found["weather"].values()) == 3
    assert found["pairs"] == {"wrong": {"series": 2, "all_right": 0.2},
                              "right": {"series": 1, "all_right": 0.1}}


# --- the command -------------------------------------------------------------------------------

@pytest.fixture
def small(more_frames, monkeypatch):
    """The training on a few places, with few samples, and few questions; counts trainings."""
    maker, more_frames.made = more_frames.time_model, []
    for module in (maker, more_frames):
        monkeypatch.setattr(module, "load_image_table", lambda profile, split: few_places("test"))
    for name, value in {"DRAWN": 8, "DRAWN_SERIES": {"sequence 4": 4},
                        "SERIES": {"sequence 16": 4, "sequence 3": 4, "refer 3": 4}}.items():
        monkeypatch.setattr(more_frames, name, value)
    for name, value in {
            "LONG_PLAIN": {"sequence 9-12": 12, "locate 1": 12}, "LONG_DATED": {"date 2-8": 4},
            "LONG_WEATHERS": {"clear": 3}, "LONG_PLACES": 20, "WEATHER": ("seasons",),
            "SETTINGS": replace(maker.SETTINGS, batch_size=8), "TEST_DATED": {"date 8": 4},
            "TEST_PLAIN": {"sequence 16": 4, "when 8": 4},
            "TEST_BOXES": {"locate 1": 4, "locate_change 2": 4}}.items():
        monkeypatch.setattr(maker, name, value)
    train = maker.train
    monkeypatch.setattr(maker, "train", lambda run, **more: more_frames.made.append(
        run.settings.seed) or train(run, **more))
    return more_frames


def command(more_frames, monkeypatch, *arguments):
    monkeypatch.setattr("sys.argv", ["more_frames", *map(str, arguments)])
    more_frames.main()


def test_every_seed_is_trained_once_and_everything_is_asked_of_every_arm(
        small, monkeypatch, capsys, tmp_path):
    """The whole way; the second call only adds a seed to what the first one left."""
    start = data_folder() / "tiny_vlm_time"
    for seeds in (2, 3):
        command(small, monkeypatch, "--start", start, "--seeds", seeds, "--steps", 2,
                "--output", tmp_path / "found.json")
    assert small.made == [2, 102, 202]
    line = capsys.readouterr().out.splitlines()[-1]
    assert (tmp_path / "found.json").read_text() == line + "\n"
    found = json.loads(line)
    rows = {(row["arm"], row["task"], row["num_images"]): row for row in found["rows"]}
    arms = {"before": 1, "after": 3, "averaged": 3}
    assert set(rows) == {(arm, *key) for arm in arms for key in (
        ("sequence", 16), ("sequence", 3), ("refer", 3), ("when", 8), ("date", 8))}
    assert all(len(row["seeds"]) == arms[row["arm"]] for row in found["rows"])
    assert all(row["low"] <= row["accuracy"] <= row["high"] for row in found["rows"])
    assert {(row["arm"], row["num_images"]) for row in found["drawn"]} == {(arm, 4) for arm in arms}
    assert all(set(found[arm][0]) == {"boxes", "weather", "shuffled_dates", "mistakes"}
               and len(found[arm]) == count for arm, count in arms.items())
    folder = tmp_path / "output" / "more_frames"
    weights = {(folder / name / "model.safetensors").read_bytes()
               for name in ("seed_0", "seed_1", "averaged_0_1", "averaged_1_2")}
    assert len(weights | {(start / "model.safetensors").read_bytes()}) == 5
    command(small, monkeypatch, "--start", start, "--seeds", 2, "--steps", 3)
    assert small.made == [2, 102, 202, 2, 102]      # a trap: a model of other settings is kept


@pytest.mark.parametrize(("seeds", "message"), [(2, "holds no model"), (1, "at least 2")])
def test_a_start_without_a_model_and_too_few_seeds_are_refused(
        more_frames, monkeypatch, capsys, tmp_path, seeds, message):
    with pytest.raises(SystemExit):
        command(more_frames, monkeypatch, "--start", tmp_path, "--seeds", seeds)
    assert message in capsys.readouterr().err


# --- the stored result -------------------------------------------------------------------------

def test_the_readme_tells_what_is_stored():
    folder = REPOSITORY / "benchmarks"
    stored = json.loads((folder / "more_frames.json").read_text())
    text = (folder / "README.md").read_text()
    section = text[text.index("## More frames\n"):text.index("## Images beside the sequence\n")]
    assert stored["settings"]["seeds"] == 3 and stored["settings"]["split"] == "test"
    for rows in (stored["rows"], stored["drawn"]):
        for row in rows:
            shown = " (".join([f"{100 * row['accuracy']:.1f}",
                               f"{100 * row['low']:.1f} to {100 * row['high']:.1f})"])
            begins = f"| {row['task']} of {row['num_images']} |"
            assert any(line.startswith(begins) and shown in line
                       for line in section.splitlines()), (begins, shown)


def test_the_mean_reaches_on_further_places_what_was_wanted():
    stored = json.loads((REPOSITORY / "benchmarks" / "more_frames.json").read_text())
    means = {row["num_images"]: row for row in stored["drawn"] if row["arm"] == "averaged"}
    for frames, wanted in {8: 0.99, 12: 0.98, 16: 0.97}.items():
        assert min(means[frames]["seeds"]) >= wanted
