"""benchmarks/cross_attention.py and cross_attention_costs.py run, and report what they say."""

import argparse
import json
import time
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
def designs():
    import cross_attention_designs
    return cross_attention_designs


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
               "start": {"initial_gate", "copy_attention", "latents"}}
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
    assert report["settings"] == {"seeds": 2, "steps": 7, "samples": 9, "only": ["mask"]}
    assert [row["differs"] for row in report["rows"]] == [["immediate"], ["preceding"]]


def test_the_command_goes_on_from_its_file_and_trains_nothing_twice(
        comparing, monkeypatch, capsys, tmp_path):
    """Each call adds an arm, a seed or a comparison; together they give what one call gives."""
    asked = []

    def pretend(setup, seed, steps, samples):
        asked.append((setup, seed))
        value = (7 + 2 * seed - 5 * (setup.image_mask == "immediate")
                 - 3 * (setup.latents is not None)) / samples
        return measured(value, seed).assign(samples=samples, gates=json.dumps({"layer 2": seed}))

    def run(*options: str) -> dict:
        asked.clear()
        monkeypatch.setattr("sys.argv", ["x", "--steps", "7", "--samples", "30", *options])
        comparing.main()
        return json.loads(capsys.readouterr().out.splitlines()[-1])

    monkeypatch.setattr(comparing, "train_and_measure", pretend)
    usual, immediate = comparing.COMPARISONS["mask"].values()
    parts = "--output", str(tmp_path / "parts.json")
    assert run("--only", "mask", "--seeds", "1", *parts)["settings"]["seeds"] == 1
    assert asked == [(usual, 0), (immediate, 0)]
    run("--only", "mask", "--seeds", "3", *parts)
    assert asked == [(usual, 1), (usual, 2), (immediate, 1), (immediate, 2)]
    run("--only", "latents", "--seeds", "1", *parts)
    assert {setup.latents for setup, _ in asked} == {1, 4, 16} and len(asked) == 3
    added = run("--only", "latents,mask", "--seeds", "3", *parts)
    assert len(asked) == 6 and added["settings"]["only"] == ["mask", "latents"]
    assert run("--only", "mask", "--seeds", "2", *parts)["rows"] == added["rows"] and not asked
    whole = run("--only", "latents,mask", "--seeds", "3")
    assert len(asked) == 15
    for report in (added, whole):
        assert report.pop("seconds") >= 0
    assert added == whole


def test_a_file_of_other_settings_or_arms_is_refused(comparing, monkeypatch, tmp_path):
    """A trap: trainings of different length in one table."""
    path = tmp_path / "a.json"
    rows = [{"task": "select", "num_images": 3, "samples": 9, "seconds": 1.0, "seeds": [0.0],
             "gates": {}, "comparison": "mask", "arm": "none"}]
    path.write_text(json.dumps({"settings": {"steps": 450, "samples": 9}, "rows": rows}))
    with pytest.raises(ValueError, match=r"a\.json was made with steps 450, not 7: give"):
        comparing.read_report(path, {"samples": 9, "steps": 7})
    stored = comparing.read_report(path, {"samples": 9, "steps": 450})
    with pytest.raises(ValueError, match="has an arm 'none' of 'mask', which this"):
        comparing.stored_results(stored)
    assert comparing.read_report(tmp_path / "b.json", {"steps": 7}) is None


def test_the_stored_comparisons_can_be_added_to(comparing):
    """What the repository holds, read back and tabulated again, is what it holds."""
    stored = json.loads((REPOSITORY / "benchmarks" / "cross_attention.json").read_text())
    results = comparing.stored_results(stored)
    again = json.loads(comparing.report(
        {name: stored["settings"][name] for name in ("steps", "samples")},
        stored["settings"]["only"], results, 0))
    assert again["rows"] == stored["rows"] and again["settings"]["seeds"] == 3


# --- both designs in the same time -------------------------------------------------------------

def test_both_designs_get_the_steps_that_fit_into_the_same_time(designs, monkeypatch):
    """The steps of the slower one are fewer; one slow round does not count."""
    paces = {"in sequence": [0.2, 0.9, 0.2], "beside": [0.1, 0.1, 0.4]}

    def train(model, processor, seed, steps, clock):
        assert clock is time.process_time
        return paces[model][seed] * steps

    monkeypatch.setattr(designs, "make_model", lambda design, seed: (design, None))
    monkeypatch.setattr(designs, "train_on_mixture", train)
    assert designs.steps_that_fit(60) == {"in sequence": 300, "beside": 600}


@pytest.mark.parametrize("design", ["in sequence", "beside"])
def test_each_design_is_trained_and_measured(designs, comparing, monkeypatch, earth_table, design):
    import learning

    def few(profile, split):
        return replace(earth_table, name=split)

    monkeypatch.setattr(comparing, "load_image_table", few)
    monkeypatch.setattr(comparing, "add_orientations", lambda table, _: table)
    monkeypatch.setattr(learning, "load_image_table", few)
    model, processor = designs.make_model(design, 0)
    assert isinstance(model, CrossAttentionVLM) == (design == "beside")
    assert processor.tokens_per_image == (1 if design == "beside" else 4)
    table = designs.train_and_measure(design, seed=1, steps=2, samples=4)
    assert {f"{row.task} {row.num_images}" for row in table.itertuples()} == set(
        learning.LESSON_TASKS)
    assert (table["seconds"] > 0).all() and table["accuracy"].between(0, 1).all()


def test_designs_are_trained_seed_by_seed_with_the_steps_of_the_first_call(
        designs, monkeypatch, capsys, tmp_path):
    asked, output = [], tmp_path / "designs.json"

    def pretend(design, seed, steps, samples):
        asked.append((design, seed, steps, samples))
        return measured({"beside": 0.9, "in sequence": 0.4}[design], seed).drop(
            columns="gates").assign(samples=samples)

    def run(seeds: int, *more: str) -> dict:
        asked.clear()
        monkeypatch.setattr("sys.argv", ["x", "--seeds", str(seeds), "--seconds", "60", *more,
                                         "--samples", "50", "--output", str(output)])
        designs.main()
        line = capsys.readouterr().out.splitlines()[-1]
        assert output.read_text() == line + "\n"
        return json.loads(line)

    monkeypatch.setattr(designs, "train_and_measure", pretend)
    monkeypatch.setattr(designs, "steps_that_fit",
                        lambda seconds: {"in sequence": 5 * seconds, "beside": 6 * seconds})
    run(3, "--runs", "1")
    assert asked == [("in sequence", 0, 300, 50), ("beside", 0, 360, 50)]
    monkeypatch.setattr(designs, "steps_that_fit", None)        # measured once and for all
    stored = json.loads(output.read_text())     # as if it had been interrupted between the two
    stored["rows"] = [row for row in stored["rows"] if row["arm"] == "in sequence"]
    output.write_text(json.dumps(stored))
    run(3, "--runs", "1")
    assert asked == [("beside", 0, 360, 50)]
    report = run(3)
    assert [each[:2] for each in asked] == [
        ("in sequence", 1), ("beside", 1), ("in sequence", 2), ("beside", 2)]
    assert report["steps"] == {"in sequence": 300, "beside": 360}
    assert report["settings"] == {"seeds": 3, "seconds": 60, "samples": 50}
    assert [(row["arm"], row["seeds"], row["differs"]) for row in report["rows"]] == [
        ("in sequence", [0.4] * 3, ["beside"]), ("beside", [0.9] * 3, ["in sequence"])]


# --- costs -------------------------------------------------------------------------------------

def test_costs_are_measured_for_each_design_and_number_of_images(
        costs, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(costs, "COUNTS", (1, 8))
    monkeypatch.setattr(costs, "BATCHES", (1, 3))
    monkeypatch.setattr(costs, "BATCH_IMAGES", 4)
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
    batches = {(row["design"], row["prompts"]): row for row in report["batches"]}
    assert list(batches) == [(design, prompts) for prompts in (1, 3) for design in designs]
    for design in designs:      # of the images that a prompt has of its own, too
        assert batches[design, 3]["bytes"] == 3 * batches[design, 1]["bytes"]
        assert batches[design, 3]["images"] == 4
    assert report["machines"].keys() == set(costs.PARTS)
    assert {each["seconds of"] for each in report["machines"].values()} == {"the clock"}
    assert [row["design"] for row in report["asking"]] == designs
    assert all(row["equal"] and row["questions"] == 3 and row["images"] == 8
               for row in report["asking"])


def test_one_part_is_measured_again_and_the_others_are_kept(
        costs, monkeypatch, capsys, tmp_path):
    path = tmp_path / "costs.json"
    kept = {"benchmark": "cross_attention_costs", "scale": "tiny", "new_tokens": costs.NEW_TOKENS,
            "machines": {"answers": {"cores": 64}, "asking": {"cores": 64}},
            "answers": [{"images": 1}], "asking": [{"questions": 2}]}
    path.write_text(json.dumps(kept))
    monkeypatch.setattr(costs, "measure_asking", lambda *_: [{"questions": 16}])
    monkeypatch.setattr("sys.argv", ["x", "--only", "asking", "--output", str(path)])
    costs.main()
    report = json.loads(path.read_text())
    assert report["answers"] == kept["answers"] and report["asking"] == [{"questions": 16}]
    assert report["machines"]["answers"] == {"cores": 64} != report["machines"]["asking"]
    with pytest.raises(ValueError, match="has scale tiny, not real"):
        costs.kept_report(path, kept | {"scale": "real"})


def test_seconds_of_the_processor_leave_out_waiting(costs, monkeypatch):
    """Or another program's work would count. With two threads, one that waits counts as well."""
    waiting = costs.Timer("cpu", 3, time.process_time)
    assert waiting.median(lambda: time.sleep(0.1)) < 0.1 <= costs.Timer("cpu").median(
        lambda: time.sleep(0.1))
    assert waiting.once(lambda: 7)[1] == 7
    monkeypatch.setattr("sys.argv", ["x", "--processor-time"])
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    assert costs.parse_options().processor_time
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    with pytest.raises(SystemExit):
        costs.parse_options()


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


# --- the stored results ------------------------------------------------------------------------

@pytest.mark.parametrize("name", ["cross_attention", "cross_attention_designs"])
def test_the_readme_tells_every_stored_figure(name):
    """With its interval, in the line of the task, or of the comparison and the arm."""
    folder = REPOSITORY / "benchmarks"
    stored = json.loads((folder / f"{name}.json").read_text())
    text = (folder / "README.md").read_text()
    section = text[text.index("## Images beside the sequence\n"):].splitlines()
    assert stored["settings"]["seeds"] == 3
    for row in stored["rows"]:
        shown = (f" {100 * row['accuracy']:.1f} ({100 * row['low']:.1f} to "
                 f"{100 * row['high']:.1f}) ")
        begins = (f"| {row['task']} of {row['num_images']} |" if row["comparison"] == "designs"
                  else f"| {row['comparison']} | {row['arm']} |")
        assert any(line.startswith(begins) and shown in line for line in section), (begins, shown)
