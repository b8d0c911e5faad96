"""benchmarks/domain.py runs, and reports what it says."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from vlm_utils.profiles import REPOSITORY


@pytest.fixture
def domain(monkeypatch):
    monkeypatch.syspath_prepend(str(REPOSITORY / "benchmarks"))
    import domain
    return domain


@pytest.fixture
def small(domain, monkeypatch, earth_table):
    """Both domains as few places, seen up to five or six times; the same for every split."""
    monkeypatch.setattr(domain.Domain, "OLD_QUESTIONS", tuple(
        name for name in domain.Domain.OLD_QUESTIONS if name != "sequence 8"))
    monkeypatch.setattr(domain, "OLD_MIXTURE", {
        "sequence 5" if name == "sequence 5-8" else name: share
        for name, share in domain.OLD_MIXTURE.items()})
    monkeypatch.setattr(domain, "load_series_table", lambda split: replace(earth_table, name=split))
    monkeypatch.setattr(domain, "TRAIN_IMAGES", 40)
    monkeypatch.setattr(domain, "TEST_IMAGES", 60)
    monkeypatch.setattr(domain, "KEPT_IMAGES", 40)
    return domain.load_domain(None)


def measured(domain, value: float, seed: int, of: str) -> pd.DataFrame:
    return pd.DataFrame({
        "domain": [of], "task": ["select"], "num_images": [3], "samples": [800],
        "accuracy": [value], "blind": [1 / 3], "shuffled": [1 / 3], "seed": [seed],
        "encoder steps": [5], "steps": [7], "seconds": [10.0]})


def test_arms_differ_in_what_their_comparison_names(domain):
    """Else a difference between two arms would have two causes."""
    first = vars(domain.COMPARISONS["rate"]["a tenth"])
    second = vars(domain.COMPARISONS["rate"]["the same"])
    assert {name for name in first if first[name] != second[name]} == {"rate"}
    kept = [vars(cure) | {"kept": None} for cure in domain.COMPARISONS["kept"].values()]
    assert kept[0] == kept[1] == kept[2]
    for arms in domain.COMPARISONS.values():
        assert len(set(arms.values())) == len(arms)


def test_the_new_domain_is_another_and_asks_what_its_truth_tells(domain, small):
    assert len(small.train) == 40 and len(small.test) == 60
    assert "another sensor" in small.train.name and "another sensor" in small.test.name
    assert "another sensor" not in small.old_train.name + small.old_test.name
    assert small.questions == ("select 2", "select 3", "refer 1")
    assert sum(small.mixture.values()) == pytest.approx(1)
    assert sum(domain.OLD_MIXTURE.values()) == pytest.approx(1)


def test_a_folder_is_a_domain_of_its_captions(domain, small, monkeypatch, tmp_path):
    monkeypatch.setenv("VLM_IMAGES", "")            # what the benchmark sets is undone afterwards
    rng = np.random.default_rng(0)
    for name in ("forest", "lake"):
        (tmp_path / "tiles" / name).mkdir(parents=True)
        for i in range(12):
            Image.fromarray(rng.integers(0, 256, (64, 64, 3), np.uint8)).save(
                tmp_path / "tiles" / name / f"{i}.png")
    found = domain.load_domain(tmp_path / "tiles")
    assert len(found.train) + len(found.test) == 24
    assert found.questions == ("select 2", "select 3", "describe 1")
    turned = domain.in_orientations(found.train, 8)
    assert len(turned) == 8 * len(found.train)


def test_kept_is_the_share_of_samples_of_the_old_domain(domain, small):
    from vlm_utils.datasets import build_tasks
    cure = domain.Cure(kept=0.25)
    both, taught = domain.mixed(cure, small, small.train, small.old_train, 200, seed=0)
    old = [min(r.rows) >= len(small.train) for r in both.recipes]
    assert sum(old) == pytest.approx(0.25 * len(both), rel=0.1)
    assert taught == old
    alone, taught = domain.mixed(replace(cure, kept=0.0), small, small.train, small.old_train, 200,
                                 seed=0)
    assert not any(taught)
    assert alone.recipes == build_tasks(
        small.train, domain.parts(small.mixture, 200), seed=0).recipes


def test_steps_are_what_the_time_allows(domain, monkeypatch):
    """The first steps of a work cost more than later ones: only those that are added count."""
    spent = iter([0.0, 5.2, 10.0, 15.6])    # start, end after 2 steps; start, end after 6
    monkeypatch.setattr(domain.time, "process_time", lambda: next(spent))
    assert domain.seconds_of_step(lambda steps: None) == pytest.approx(0.1)


@pytest.mark.parametrize(("comparison", "arm"), [
    ("cures", "last layer"), ("cures", "pretrained, turned"), ("cures", "convolutions, turned"),
    ("kept", "none"), ("forgetting", "slow"), ("forgetting", "taught")])
def test_an_arm_is_trained_and_measured_in_both_domains(domain, small, monkeypatch, comparison,
                                                        arm):
    """A step or two of each: every question is asked and answered."""
    monkeypatch.setattr(domain, "BATCH", 4)
    monkeypatch.setattr(domain, "seconds_of_step", lambda work: 1e6)
    table = domain.train_and_measure(domain.COMPARISONS[comparison][arm], small, seed=0,
                                     seconds=1, samples=6)
    assert table["domain"].unique().tolist() == [domain.NEW, domain.OLD]
    asked = {(row.domain, f"{row.task} {row.num_images}") for row in table.itertuples()}
    assert asked == {(domain.NEW, name) for name in small.questions} | {
        (domain.OLD, name) for name in small.OLD_QUESTIONS}
    assert not table[table["domain"] == domain.NEW][["blind", "shuffled"]].isna().any(axis=None)
    assert table["accuracy"].between(0, 1).all() and (table["steps"] == 1).all()
    assert (table["encoder steps"] > 0).all() == (
        domain.COMPARISONS[comparison][arm].pretrained > 0)


def test_the_command_measures_each_cure_once_and_reports(domain, small, monkeypatch, capsys,
                                                         tmp_path):
    """All but the trainings, in whose place stand made up accuracies."""
    asked = []

    def pretend(cure, tables, seed, seconds, samples):
        asked.append((cure and cure.rate, seed, seconds, samples))
        value = {None: 0.5, 0.1: 0.9, 1.0: 0.7}[cure and cure.rate]
        return pd.concat([measured(domain, value, seed, of) for of in (domain.NEW, domain.OLD)])

    monkeypatch.setattr(domain, "train_and_measure", pretend)
    monkeypatch.setattr(domain, "load_domain", lambda images, split: small)
    monkeypatch.setattr("sys.argv", ["x", "--only", "rate", "--seeds", "2", "--seconds", "7",
                                     "--samples", "9", "--output", str(tmp_path / "a.json")])
    domain.main()
    assert asked == [(rate, seed, 7, 9) for seed in (0, 1) for rate in (None, 0.1, 1.0)]
    line = capsys.readouterr().out.splitlines()[-1]
    assert (tmp_path / "a.json").read_text() == line + "\n"
    report = json.loads(line)
    assert report["images"] == {"train": 40, "test": 60}
    assert [(row["domain"], row["arm"], row["differs"]) for row in report["rows"]] == [
        (of, arm, [other for other in ("before", "a tenth", "the same") if other != arm])
        for arm in ("before", "a tenth", "the same") for of in (domain.NEW, domain.OLD)]


def test_real_tiles_are_a_domain(domain, monkeypatch, real_images):
    monkeypatch.setenv("VLM_IMAGES", "")
    found = domain.load_domain(real_images / "eurosat")
    assert len(found.train) == 3000 and len(found.test) == 1000
    assert len({captions[0] for captions in found.train.truth.captions}) == 10


def test_what_is_stored_is_what_the_command_reports(domain):
    """The stored table has every arm of the comparisons that it was asked for, in both domains."""
    for path in sorted((REPOSITORY / "benchmarks").glob("domain*.json")):
        report = json.loads(path.read_text(encoding="utf-8"))
        for name in report["settings"]["only"]:
            arms = {(row["domain"], row["arm"]) for row in report["rows"]
                    if row["comparison"].startswith(f"{name}, ")}
            assert arms == {(of, arm) for arm in ("before", *domain.COMPARISONS[name])
                            for of in (domain.NEW, domain.OLD)}, path.name
        assert all(row["low"] <= row["accuracy"] <= row["high"] for row in report["rows"])


def test_one_arm_leaves_nothing_encoded_for_the_next(domain, small, monkeypatch):
    """A trap: the frozen encoder's features in a table that an unfrozen one is to see again."""
    monkeypatch.setattr(domain, "seconds_of_step", lambda work: 1.0)
    for cure in (domain.Cure(), domain.Cure(layers=1), domain.Cure()):
        _, _, took = domain.adapt(cure, small, seconds=1.0, seed=0)
        assert took["steps"] == 1
        assert small.train.image_features is None and small.old_train.image_features is None


def test_images_to_choose_by_are_neither_trained_on_nor_those_of_the_test(domain, monkeypatch,
                                                                          tmp_path):
    """A trap: what is chosen by the test images is then told as their result."""
    monkeypatch.setenv("VLM_IMAGES", "")
    monkeypatch.setattr(domain, "load_series_table", lambda split: split)
    rng = np.random.default_rng(0)
    for name in ("forest", "lake"):
        (tmp_path / "tiles" / name).mkdir(parents=True)
        for i in range(20):
            Image.fromarray(rng.integers(0, 256, (64, 64, 3), np.uint8)).save(
                tmp_path / "tiles" / name / f"{i}.png")
    test, chosen = (domain.load_domain(tmp_path / "tiles", split)
                    for split in ("test", "validation"))
    assert (test.old_test, chosen.old_test) == ("test", "validation")
    names = [{str(name) for name in table.files}
             for table in (test.train, test.test, chosen.train, chosen.test)]
    assert names[2] | names[3] == names[0] and not names[2] & names[3]
    assert not names[3] & names[1] and len(names[3]) == len(names[0]) / domain.ASIDE
    assert [c[0] for c in chosen.test.truth.captions] == [
        "forest" if "forest" in str(file) else "lake" for file in chosen.test.files]


def test_arms_share_a_first_stage_and_each_is_charged_for_it(domain, small, monkeypatch):
    """A trap: the second arm finds what the first has encoded, and trains for longer."""
    counted = []
    monkeypatch.setattr(domain, "BATCH", 4)
    monkeypatch.setattr(domain, "seconds_of_step", lambda work: 1e6)
    monkeypatch.setattr(domain, "pretrain", lambda *_: counted.append(1) or 3)
    first = domain.adapt(domain.EVERY, small, seconds=1.0, seed=0)[2]
    for cure in (domain.SLOW, replace(domain.SLOW, back=0.5)):
        took = domain.adapt(cure, small, seconds=1.0, seed=0)[2]
        assert took["encoder steps"] == first["encoder steps"] == 3
    stage = small.firsts[domain.EVERY.first, 0]
    charged = stage.seconds + sum(seconds for _, seconds in stage.tables.values())
    assert took["seconds"] > charged > 0
    assert len(counted) == len(small.firsts) == 1
    assert len(small.trained) == 2          # half back is the same training
    domain.adapt(replace(domain.EVERY, orientations=2), small, seconds=1.0, seed=0)
    assert len(counted) == 2


def test_weights_go_back_by_their_share(domain, small, monkeypatch):
    monkeypatch.setattr(domain, "BATCH", 4)
    monkeypatch.setattr(domain, "seconds_of_step", lambda work: 1e6)
    cure = domain.Cure()
    after, half, none = (domain.adapt(replace(cure, back=back), small, 3.5e6, 0)[0].state_dict()
                         for back in (0.0, 0.5, 1.0))
    name = "language_model.lm_head.weight"
    assert not torch.equal(after[name], none[name])
    assert torch.allclose(half[name], (after[name] + none[name]) / 2)
    start = domain.load_checkpoint(domain.data_folder() / "tiny_vlm")[0].state_dict()
    assert torch.equal(none[name], start[name])


def test_a_description_counts_if_its_facts_are_those_of_the_tile(domain, small, monkeypatch):
    table = small.old_test

    def tell(model, processor, asked):
        texts = [table.truth.captions[r.rows[0]][0] for r in asked.recipes]
        texts[0] = "A satellite image of nothing."
        return pd.DataFrame({"prediction": texts})

    monkeypatch.setattr(domain, "predict", tell)
    row = domain.descriptions(None, None, table, 10).iloc[0]
    assert row["accuracy"] == pytest.approx(1 - 1 / row["samples"])
    assert row["low"] < row["accuracy"] < row["high"]


def test_the_readme_tells_every_figure_of_the_best_arm():
    folder = REPOSITORY / "benchmarks"
    stored = json.loads((folder / "domain.json").read_text())
    text = (folder / "README.md").read_text()
    section = text[text.index("## A new domain\n"):text.index("### Which cure, in a short time?")]
    for row in stored["rows"]:
        if not row["accuracy"]:
            continue                    # a model that never names a class: there it says 0
        shown = (f"{100 * row['accuracy']:.1f} ({100 * row['low']:.1f} to "
                 f"{100 * row['high']:.1f})").replace("100.0)", "100)")
        names = {"compare": "compare", "describe": "every fact of a description"
                 if row["domain"] == "TinyEarth" else "the class as the description"}
        begins = f"| {names.get(row['task'], row['task'] + ' of ' + str(row['num_images']))} |"
        assert any(line.startswith(begins) and shown in line
                   for line in section.splitlines()), (begins, shown)


def test_a_tenth_of_the_way_back_keeps_each_of_tiny_earths_figures_to_a_point():
    stored = json.loads((REPOSITORY / "benchmarks" / "domain.json").read_text())
    figure = {(row["arm"], row["task"], row["num_images"]): row["accuracy"]
              for row in stored["rows"] if row["domain"] == "TinyEarth"}
    asked = [key[1:] for key in figure if key[0] == "before"]
    assert len(asked) == 11
    for key in asked:
        assert figure["before", *key] - figure["a tenth back", *key] <= 0.01, key
