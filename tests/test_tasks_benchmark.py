"""benchmarks/tasks.py runs, and reports what it says; what is stored is of all that it can do."""

import json
from dataclasses import replace

import pandas as pd
import pytest

from vlm_utils.profiles import REPOSITORY
from vlm_utils.real_data import INSTRUCTIONS


@pytest.fixture
def tasks(monkeypatch):
    monkeypatch.syspath_prepend(str(REPOSITORY / "benchmarks"))
    import tasks
    return tasks


def test_arms_are_equal_in_what_their_names_say(tasks):
    alone, samples, steps = (tasks.trainings(arm, 12) for arm in tasks.ARMS)
    assert [list(counts) for counts, _ in alone] == [[task] for task in INSTRUCTIONS]
    (together, more_steps), = samples
    assert together == {task: count for counts, _ in alone for task, count in counts.items()}
    assert more_steps == sum(length for _, length in alone) == 12 * len(INSTRUCTIONS)
    (shared, as_many), = steps
    assert list(shared) == list(INSTRUCTIONS) and as_many == alone[0][1]
    assert sum(shared.values()) == sum(alone[0][0].values())


@pytest.mark.parametrize("arm", ["alone", "equal steps"])
def test_an_arm_is_trained_and_measured(tasks, monkeypatch, earth_table, arm):
    """One step for each training, on few places: every task is asked and answered."""
    monkeypatch.setattr(tasks, "load_image_table",
                        lambda profile, split: replace(earth_table, name=split))
    monkeypatch.setattr(tasks, "BATCH", 6)
    tasks.encoded.cache_clear()
    table = tasks.train_and_measure(arm, seed=1, steps=1, samples=3)
    tasks.encoded.cache_clear()
    assert list(table["task"]) == list(INSTRUCTIONS)
    assert (table["samples"] == 3).all() and table["accuracy"].between(0, 1).all()
    assert set(table["num_images"]) == {1, 2} and (table["seconds"] > 0).all()


def test_the_command_trains_each_arm_with_each_seed_and_reports(tasks, monkeypatch, capsys,
                                                                 tmp_path):
    """All but the trainings, in whose place stand made up accuracies."""
    asked = []

    def pretend(arm, seed, steps, samples):
        asked.append((arm, seed, steps, samples))
        return pd.DataFrame({
            "task": ["detect"], "num_images": [1], "samples": [300], "in_form": [1.0],
            "accuracy": [0.9 if arm == "alone" else 0.5], "score": [0.7], "seed": [seed],
            "seconds": [10.0]})

    monkeypatch.setattr(tasks, "train_and_measure", pretend)
    monkeypatch.setattr("sys.argv", ["x", "--only", "alone,equal steps", "--seeds", "2", "--steps",
                                     "7", "--samples", "9", "--output", str(tmp_path / "a.json")])
    tasks.main()
    assert asked == [(arm, seed, 7, 9) for seed in (0, 1) for arm in ("alone", "equal steps")]
    line = capsys.readouterr().out.splitlines()[-1]
    assert (tmp_path / "a.json").read_text() == line + "\n"
    report = json.loads(line)
    assert report["settings"] == {"seeds": 2, "steps": 7, "samples": 9, "batch": tasks.BATCH,
                                  "only": ["alone", "equal steps"]}
    assert [row["differs"] for row in report["rows"]] == [["equal steps"], ["alone"]]
