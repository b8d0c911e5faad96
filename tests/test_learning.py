"""benchmarks/learning.py: seeds are put together, settings are read, and the quick run reports."""

import argparse
import json
import os
import subprocess
import sys
from dataclasses import replace

import pandas as pd
import pytest

from vlm_utils.profiles import REPOSITORY, get_profile

FOLDER = REPOSITORY / "benchmarks"


@pytest.fixture
def learning(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    import learning
    return learning


@pytest.mark.parametrize(("text", "expected"), [
    ("steps=1500", ("steps", 1500)), ("learning_rate=1e-3", ("learning_rate", 0.001)),
    ("optimizer=adamw", ("optimizer", "adamw"))])
def test_settings_are_read_in_their_own_type(learning, text, expected):
    assert learning.parse_setting(text) == expected


@pytest.mark.parametrize(("text", "message"), [("step=3", "'step' is none of"),
                                               ("seed=3", "'seed' is none of"),
                                               ("steps=many", "steps is of type int")])
def test_a_wrong_setting_is_refused_by_name(learning, text, message):
    with pytest.raises(argparse.ArgumentTypeError, match=message):
        learning.parse_setting(text)


def test_the_interval_of_several_seeds_is_not_narrower_for_the_same_questions(learning):
    one = pd.DataFrame({"task": ["select"], "num_images": [3], "samples": [100],
                        "accuracy": [0.8], "seed": [0]})
    together = learning.over_seeds([one, one.assign(accuracy=0.9, seed=1)])
    assert together["accuracy"][0] == pytest.approx(0.85)
    assert together["seeds"][0] == [0.8, 0.9]
    assert together["high"][0] - together["low"][0] > 0.13   # of 100 questions, not of 200
    apart = learning.over_seeds([one.assign(split="test"), one.assign(split="validation")])
    assert list(apart["split"]) == ["test", "validation"] and list(apart["accuracy"]) == [0.8, 0.8]


def test_a_training_is_measured_on_the_split_that_was_asked_for(learning, monkeypatch):
    """The whole way, with few images and samples, and two steps."""
    profile = replace(get_profile("tiny").on(64), mixture={"select 2": 100, "refer 1": 28},
                      orientations=1)
    asked = []
    load = learning.load_image_table
    monkeypatch.setattr(learning, "get_profile", lambda name: profile)
    monkeypatch.setattr(learning, "load_image_table",
                        lambda profile, name: asked.append(name) or load(profile, name))
    table, seconds = learning.train_and_measure(1, 8, {"steps": 2}, ["validation"])
    assert asked == ["train", "validation"] and seconds > 0
    assert list(table["samples"]) == [8] * len(learning.LESSON_TASKS)
    assert (table["seed"] == 1).all() and (table["split"] == "validation").all()


def test_the_quick_run_measures_every_task_with_its_controls():
    done = subprocess.run(
        [sys.executable, "benchmarks/learning.py", "--quick", "--samples", "10"], text=True,
        cwd=REPOSITORY, capture_output=True, check=False, timeout=600,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)})
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout.splitlines()[-1])
    found = {(row["task"], row["num_images"]) for row in report["tasks"]}
    assert {("select", 8), ("compare", 2), ("sequence", 8), ("refer", 8)} <= found
    for row in report["tasks"]:
        assert 0 <= row["low"] <= row["accuracy"] <= row["high"] <= 1
        assert {"blind", "shuffled", "invalid", "prior", "chance"} <= row.keys()
