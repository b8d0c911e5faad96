"""benchmarks/cross_attention.py and cross_attention_costs.py run, and report what they say."""

import argparse
import json
from dataclasses import replace

import pandas as pd
import pytest
import torch

from vlm_utils.cross_attention import CrossAttentionVLM
from vlm_utils.profiles import REPOSITORY


@pytest.fixture(autouse=True)
def _benchmarks_importable(monkeypatch):
    monkeypatch.syspath_prepend(str(REPOSITORY / "benchmarks"))


@pytest.fixture
def comparing():
    import cross_attention
    return cross_attention


@pytest.fixture
def costs():
    import cross_attention_costs
    return cross_attention_costs


# --- comparisons -------------------------------------------------------------------------------

def test_comparisons_are_read_once_each_and_others_refused(comparing):
    from ablations import parse_comparisons
    known = list(comparing.COMPARISONS)
    assert parse_comparisons("mask, start,mask", known) == ["mask", "start"]
    with pytest.raises(argparse.ArgumentTypeError, match="'colour' is none of start, mask, text"):
        parse_comparisons("mask,colour", known)


def test_arms_differ_from_the_lessons_in_what_their_comparison_names(comparing):
    changed = {"mask": {"image_mask"}, "text": {"frozen"}, "layers": {"layers"},
               "block": {"gated_feed_forward"}, "latents": {"latents"}, "order": {"image_order"},
               "start": {"initial_gate", "copy_attention", "latents"}, "long": {"long"}}
    usual = vars(comparing.Setup())
    for comparison, arms in comparing.COMPARISONS.items():
        differ = {name for setup in arms.values() for name, value in vars(setup).items()
                  if value != usual[name]}
        assert differ == changed[comparison]
        assert len(set(arms.values())) == len(arms)


def measured(value: float, seed: int) -> pd.DataFrame:
    return pd.DataFrame({"task": ["select"], "num_images": [3], "samples": [300],
                         "accuracy": [value], "seed": [seed], "seconds": [10.0 + seed],
                         "gates": [json.dumps({"layer 2, attention": 0.4})]})


def test_the_table_has_each_arm_over_its_seeds_and_names_those_that_differ(comparing):
    arms = comparing.COMPARISONS["mask"]
    results = {arms["preceding"]: [measured(0.9, 0), measured(0.94, 1)],
               arms["immediate"]: [measured(0.6, 0), measured(0.62, 1)]}
    table = comparing.tabulate(results, ["mask"])
    assert table["arm"].tolist() == ["preceding", "immediate"]
    assert table["accuracy"].tolist() == pytest.approx([0.92, 0.61])
    assert table["differs"].tolist() == [["immediate"], ["preceding"]]
    assert table["gates"][0] == {"layer 2, attention": 0.4}
    assert table["samples"].dtype.kind == "i"
    unfinished = comparing.tabulate(results | {arms["immediate"]: []}, ["mask"])
    assert unfinished["arm"].tolist() == ["preceding"] and unfinished["differs"][0] == []


def test_frozen_is_all_of_the_language_model_but_its_blocks(comparing, make_model, processor):
    from vlm_utils.cross_attention import add_cross_attention
    model, _ = add_cross_attention(make_model(), processor, [0])
    comparing.freeze_language_model(model)
    trains = {name for name, p in model.language_model.named_parameters() if p.requires_grad}
    assert trains == {name for name, _ in model.language_model.named_parameters()
                      if "cross_attention" in name}
    assert trains and all(p.requires_grad for p in model.projector.parameters())


@pytest.mark.parametrize(("comparison", "arm"), [
    ("text", "frozen"), ("latents", "4"), ("mask", "immediate")])
def test_an_arm_is_trained_and_measured(comparing, monkeypatch, earth_table, comparison, arm):
    """Two steps on few places: every task is asked and answered."""
    import learning

    def few(profile, split):
        return replace(earth_table, name=split)

    monkeypatch.setattr(comparing, "load_image_table", few)
    monkeypatch.setattr(comparing, "add_orientations", lambda table, _: table)
    monkeypatch.setattr(learning, "load_image_table", few)
    table = comparing.train_and_measure(comparing.COMPARISONS[comparison][arm], seed=1, steps=2,
                                        samples=4)
    assert {f"{row.task} {row.num_images}" for row in table.itertuples()} == set(comparing.TASKS)
    assert (table["samples"] == 4).all() and table["accuracy"].between(0, 1).all()
    opened = json.loads(table["gates"][0])
    assert opened.keys() == {"layer 2, attention", "layer 3, attention"}
    assert all(0.4 < gate < 0.5 for gate in opened.values())


def test_the_command_trains_each_arm_with_each_seed_and_reports(
        comparing, monkeypatch, capsys, tmp_path):
    """All but the trainings, in whose place stand made up accuracies."""
    asked = []

    def pretend(setup, seed, steps, samples):
        asked.append((setup.image_mask, seed, steps, samples))
        return measured(0.9 if setup.image_mask == "preceding" else 0.5, seed)

    monkeypatch.setattr(comparing, "train_and_measure", pretend)
    monkeypatch.setattr("sys.argv", ["x", "--only", "mask", "--seeds", "2", "--steps", "7",
                                     "--samples", "9", "--output", str(tmp_path / "a.json")])
    comparing.main()
    assert asked == [(mask, seed, 7, 9) for mask in ("preceding", "immediate") for seed in (0, 1)]
    line = capsys.readouterr().out.splitlines()[-1]
    assert (tmp_path / "a.json").read_text() == line + "\n"
    report = json.loads(line)
    assert report["settings"] == {"seeds": 2, "steps": 7, "samples": 9, "only": ["mask"],
                                  "long steps": comparing.STEPS}
    assert [row["differs"] for row in report["rows"]] == [["immediate"], ["preceding"]]


# --- costs -------------------------------------------------------------------------------------

def test_costs_are_measured_for_each_design_and_number_of_images(
        costs, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(costs, "COUNTS", (1, 8))
    monkeypatch.setattr(costs, "NEW_TOKENS", 3)
    monkeypatch.setattr(costs, "QUESTIONS", costs.QUESTIONS[:3])
    monkeypatch.setattr("sys.argv", ["x", "--scale", "tiny", "--rounds", "1",
                                     "--output", str(tmp_path / "costs.json")])
    costs.main()
    line = capsys.readouterr().out.splitlines()[-1]
    assert (tmp_path / "costs.json").read_text() == line + "\n"
    report = json.loads(line)
    designs = ["in sequence", "beside", "beside, few"]
    answers = {(row["design"], row["images"]): row for row in report["answers"]}
    assert list(answers) == [(design, count) for count in (1, 8) for design in designs]
    assert all(row["first"] > 0 and row["whole"] > 0 for row in answers.values())
    tokens, kept = ({key: row[name] for key, row in answers.items()}
                    for name in ("tokens", "bytes"))
    # 9 placeholders an image in the sequence and one beside it; the rest of the prompt is the same.
    assert tokens["in sequence", 8] - tokens["beside", 8] == 8 * 8
    assert tokens["in sequence", 1] - tokens["beside", 1] == 8
    assert kept["beside, few", 8] < kept["beside", 8] < kept["in sequence", 8]
    assert [row["design"] for row in report["asking"]] == designs
    assert all(row["equal"] and row["questions"] == 3 and row["images"] == 8
               for row in report["asking"])


def test_the_bytes_are_those_of_all_keys_and_values(costs):
    """Of the text in both layers, and of the images in the one layer that attends to them."""
    from common import SCALES
    designs = costs.make_designs(SCALES["tiny"], seed=0)
    model, processor = designs["beside"]
    assert isinstance(model, CrossAttentionVLM)
    blocks, head = len(model.language_model.blocks), 16 * 4             # numbers of 4 bytes
    features = torch.randn(2, 36, 32)
    batch = costs.prompt_batch(model, processor, 2, features)
    new, kept = costs.answer(model, batch, 2)
    text = batch["input_ids"].shape[1] + 1                              # the last is not read
    assert new.shape == (1, 2)
    assert kept == 2 * head * (2 * text + blocks * 2 * 9)
