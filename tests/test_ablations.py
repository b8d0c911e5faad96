"""benchmarks/ablations.py: every arm is what its name says, and differences are judged rightly."""

import json
from dataclasses import replace
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
from PIL import Image
from small_models import MERGE, TOKENS

from vlm_utils.architecture import identifier
from vlm_utils.collate import collate
from vlm_utils.datasets import EncodedSamples, TaskDataset, build_tasks
from vlm_utils.profiles import REPOSITORY
from vlm_utils.training import TrainingSettings, encode_table, start_run, train

FOLDER = REPOSITORY / "benchmarks"
PROMPT = "Is there a lake in <image_1>?<image><image>"


@pytest.fixture
def ablations(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    import ablations
    return ablations


def tokens(ablations, comparison: str, arm: str) -> list[str]:
    """The prompt of an arm, token by token."""
    _, processor = ablations.make_model(ablations.COMPARISONS[comparison][arm], seed=0)
    ids = processor.encode_prompt(PROMPT, 2)
    return processor.tokenizer.convert_ids_to_tokens(ids)


def weights(module: torch.nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in module.parameters()])


# --- the arms ----------------------------------------------------------------------------------

def test_identifiers_stand_after_before_or_nowhere(ablations):
    after, before, none = (tokens(ablations, "identifiers", arm)
                           for arm in ("after", "before", "none"))
    first = after.index("<image>")                       # image 1, then its name, then image 2
    size = (after.count("<image>")) // 2
    assert after[first + size:first + size + 2] == ["<image_1>", "<image>"]
    assert before[first:first + 2] == ["<image_1>", "<image>"]
    assert none.count("<image>") == 2 * size
    assert none.count("<image_1>") == 1 and none.count("<image_2>") == 0  # the question's alone


def test_only_the_prepended_layout_puts_the_images_before_the_text(ablations):
    assert tokens(ablations, "layout", "prepended")[0] == "<image>"
    assert tokens(ablations, "layout", "interleaved")[0] != "<image>"


def test_every_arm_of_tokens_has_a_new_projector_for_its_own_number(ablations):
    base, _ = ablations.make_model(ablations.Setup(), seed=0)
    arms = ablations.COMPARISONS["tokens"]
    assert base.config.merge_factor == ablations.MERGE == next(iter(arms.values())).merge_factor
    assert {setup.merge_factor for setup in arms.values()} == {1, 2, 4}
    for name, setup in arms.items():
        model, processor = ablations.make_model(setup, seed=0)
        assert setup.new_projector
        assert str(processor.tokens_per_image) == str(model.config.tokens_per_image) == name
        ids = torch.tensor([processor.encode_prompt(PROMPT, 2)])
        features = torch.zeros(2, model.config.patches_per_image,
                               model.config.vision_config.hidden_size)
        assert model.embed(ids, image_features=features).shape[:2] == ids.shape
        assert torch.equal(weights(model.language_model), weights(base.language_model))


def test_a_new_projector_is_new_seeded_and_as_loud_as_words(ablations, make_model):
    model = make_model()
    first = weights(model.projector)
    ablations.renew_projector(model, MERGE, seed=1)
    second = weights(model.projector)
    ablations.renew_projector(model, MERGE, seed=1)
    assert not torch.equal(first, second) and torch.equal(second, weights(model.projector))
    scale = model.get_input_embeddings().weight.std()
    assert torch.allclose(model.projector.layers[-1].weight, scale)
    ablations.renew_projector(model, MERGE, seed=2)
    assert not torch.equal(second, weights(model.projector))
    assert all(p.requires_grad for p in model.projector.parameters())


def test_the_random_encoder_has_learnt_nothing_is_frozen_and_the_same_for_all_seeds(ablations):
    arms = ablations.COMPARISONS["encoder"]
    pretrained, _ = ablations.make_model(arms["pretrained"], seed=0)
    first, _ = ablations.make_model(arms["random"], seed=0)
    second, _ = ablations.make_model(arms["random"], seed=1)
    assert not torch.equal(weights(first.vision_encoder), weights(pretrained.vision_encoder))
    assert torch.equal(weights(first.vision_encoder), weights(second.vision_encoder))
    assert torch.equal(weights(first.projector), weights(pretrained.projector))
    assert not any(p.requires_grad for p in first.vision_encoder.parameters())
    other = ablations.random_encoder(first.config.vision_config, seed=1)
    assert not torch.equal(weights(first.vision_encoder), weights(other))


def test_equal_setups_are_trained_once(ablations):
    names = ablations.setups_of(list(ablations.COMPARISONS))
    assert names[ablations.Setup()] == "identifiers after = layout interleaved = padding absent"
    assert len(names) == 11
    assert sum(map(len, ablations.COMPARISONS.values())) == 14
    assert ablations.setups_of(["images"]).keys() == set(ablations.COMPARISONS["images"].values())


# --- the mixtures ------------------------------------------------------------------------------

def test_mixtures_of_up_to_so_many_images_hold_as_many_samples(ablations):
    lesson = {"select 2": 100, "select 3": 300, "compare 2": 200, "sequence 2-4": 200,
              "refer 1-3": 150, "describe 1": 50}
    assert ablations.up_to(lesson, 8) == {"select 2-8": 400, "compare 2": 200, "sequence 2-8": 200,
                                          "refer 1-8": 150, "describe 1": 50}
    assert sum(ablations.up_to(lesson, 3).values()) == sum(lesson.values())


def test_a_short_training_gets_the_shares_of_the_mixture(ablations):
    lesson = {"select 2": 100, "compare 2": 300}
    assert ablations.training_mixture(lesson, 0, 40) == {"select 2": 10, "compare 2": 30}
    assert ablations.training_mixture(lesson, 0, 10_000) == lesson
    assert sum(ablations.training_mixture(lesson, 0, 41).values()) >= 41


# --- padding -----------------------------------------------------------------------------------

@pytest.fixture
def dataset(earth_table, model, processor) -> TaskDataset:
    """Encoded samples of one, two and three images."""
    table = replace(earth_table, image_features=encode_table(earth_table, model, processor))
    return build_tasks(table, {"describe 1": 4, "select 2": 6, "refer 2": 4, "select 3": 4}, seed=0)


def test_a_padded_pair_has_one_more_image_and_attends_to_it(ablations, dataset, model, processor):
    padded = ablations.pad_pairs(dataset, model, processor)
    plain, filled = (EncodedSamples(each, processor) for each in (dataset, padded))
    black = processor.pixel_values([Image.new("RGB", dataset.table.image(0).size)])
    black = model.encode_images(black)[0].half()
    for i, recipe in enumerate(dataset.recipes):
        before, after = (collate([each[i]], processor.pad_token_id) for each in (plain, filled))
        more = 1 if len(recipe.rows) == 2 else 0
        assert len(after["image_features"]) == len(recipe.rows) + more
        assert torch.equal(after["image_features"][:len(recipe.rows)], before["image_features"])
        assert torch.equal(after["labels"][after["labels"] != -100],
                           before["labels"][before["labels"] != -100])
        if not more:
            assert torch.equal(after["input_ids"], before["input_ids"])
            continue
        assert torch.equal(after["image_features"][2], black)
        placeholders = after["input_ids"] == processor.image_token_id
        assert placeholders.sum() == 3 * TOKENS
        assert after["attention_mask"][placeholders].all()
        name = processor.tokenizer.convert_tokens_to_ids(identifier(3))
        assert name in after["input_ids"] and name not in before["input_ids"]


def test_a_padded_pair_trains_and_counts_as_two_images(ablations, dataset, model, processor):
    padded = ablations.pad_pairs(dataset, model, processor)
    settings = TrainingSettings(steps=2, batch_size=4, warmup_steps=1)
    assert len(train(start_run(model, processor, padded, settings))) == 2
    kept = [r for r in dataset.recipes if r.task == "select"]
    table = ablations.measure(model, processor, replace(dataset, recipes=kept), padded=True)
    assert list(zip(table["task"], table["num_images"], table["samples"], strict=True)) == [
        ("select", 2, 6), ("select", 3, 4)]


# --- a run, the whole way ----------------------------------------------------------------------

@pytest.mark.parametrize(("comparison", "arm"), [
    ("layout", "prepended"), ("tokens", "16"), ("padding", "attended"), ("encoder", "random")])
def test_an_arm_is_trained_and_measured(ablations, monkeypatch, earth_table, comparison, arm):
    """Two steps on few places: every task of the lesson is asked and answered."""
    import learning
    monkeypatch.setattr(ablations, "training_table", lambda: earth_table)
    monkeypatch.setattr(learning, "load_image_table",
                        lambda profile, split: replace(earth_table, name=split))
    setup = ablations.COMPARISONS[comparison][arm]
    table = ablations.train_and_measure(setup, seed=1, steps=2, samples=4)
    assert [f"{row.task} {row.num_images}" for row in table.itertuples()] == \
        sorted(ablations.LESSON_TASKS)
    assert (table["samples"] == 4).all() and (table["seed"] == 1).all()
    assert table["accuracy"].between(0, 1).all()


# --- the table ---------------------------------------------------------------------------------

def accuracy(value: float, low: float, high: float, spread: float = 0.0) -> SimpleNamespace:
    return SimpleNamespace(accuracy=value, low=low, high=high,
                           seeds=[value - spread, value, value + spread])


@pytest.mark.parametrize(("second", "expected"), [
    (accuracy(0.50, 0.44, 0.56), False),         # the same
    (accuracy(0.57, 0.51, 0.63), False),         # 0.07 of an interval of 0.085
    (accuracy(0.60, 0.54, 0.66), True),          # 0.10: though the two intervals overlap
    (accuracy(0.40, 0.34, 0.46), True)])
def test_a_difference_is_held_against_its_own_interval(ablations, second, expected):
    first = accuracy(0.50, 0.44, 0.56)
    assert ablations.differs(first, second) == ablations.differs(second, first) == expected


def test_a_one_sided_interval_counts_on_the_side_of_the_other(ablations):
    first, second = accuracy(1.0, 0.90, 1.0), accuracy(0.88, 0.80, 0.90)
    assert ablations.differs(first, second)      # 0.12 > hypot(0.10, 0.02)
    assert not ablations.differs(accuracy(1.0, 0.86, 1.0), second)


def test_what_one_seed_contradicts_is_no_difference(ablations):
    """A trap: the interval counts questions; trainings that differ by luck pass it."""
    first = accuracy(0.50, 0.44, 0.56, spread=0.04)
    assert ablations.differs(first, accuracy(0.60, 0.54, 0.66, spread=0.05))
    assert not ablations.differs(first, accuracy(0.60, 0.54, 0.66, spread=0.07))


def measured(value: float, seed: int, task: str = "select") -> pd.DataFrame:
    return pd.DataFrame({"task": [task], "num_images": [2], "samples": [300],
                         "accuracy": [value], "seed": [seed]})


def test_the_table_names_the_arms_that_differ_within_a_comparison(ablations):
    arms = ablations.COMPARISONS["identifiers"]
    values = {"after": 0.9, "before": 0.88, "none": 0.5}
    results = {arms[name]: [measured(value, 0), measured(value + 0.02, 1)]
               for name, value in values.items()}
    results[ablations.COMPARISONS["layout"]["prepended"]] = [measured(0.5, 0)]
    table = ablations.tabulate(["identifiers", "layout"], results)
    found = {(row.comparison, row.arm): row.differs for row in table.itertuples()}
    assert found == {
        ("identifiers", "after"): ["none"], ("identifiers", "before"): ["none"],
        ("identifiers", "none"): ["after", "before"],
        ("layout", "interleaved"): ["prepended"], ("layout", "prepended"): ["interleaved"]}
    assert table["seeds"][0] == [0.9, 0.92] and table["accuracy"][0] == pytest.approx(0.91)
    assert len(ablations.draw(table).axes) == 2


# --- the command -------------------------------------------------------------------------------

@pytest.mark.parametrize(("arguments", "message"), [
    (["--only", "identifiers,colour"],
     "'colour' is none of identifiers, layout, tokens, padding, encoder, images"),
    (["--seeds", "0"], "--seeds: a whole number of at least 1, not '0'"),
    (["--steps", "many"], "--steps: a whole number of at least 1, not 'many'"),
    (["--output", "nowhere/a.json"], "--output: there is no folder nowhere")])
def test_a_wrong_argument_is_refused_and_what_is_allowed_is_named(
        ablations, monkeypatch, capsys, arguments, message):
    monkeypatch.setattr("sys.argv", ["ablations.py", *arguments])
    with pytest.raises(SystemExit) as stopped:
        ablations.main()
    assert stopped.value.code == 2 and message in capsys.readouterr().err


def test_the_command_trains_every_arm_with_every_seed_and_reports(
        ablations, monkeypatch, capsys, tmp_path):
    """All but the trainings, in whose place stand made up accuracies."""
    asked = []

    def pretend(setup, seed, steps, samples):
        asked.append((setup, seed, steps, samples))
        return measured(0.3 if setup.layout == "prepended" else 0.8, seed)

    monkeypatch.setattr(ablations, "train_and_measure", pretend)
    monkeypatch.setenv("VLM_OUTPUT", str(tmp_path))
    monkeypatch.setattr("sys.argv", ["ablations.py", "--only", "layout", "--seeds", "2",
                                     "--steps", "7", "--samples", "9",
                                     "--output", str(tmp_path / "ablations.json")])
    ablations.main()
    arms = ablations.COMPARISONS["layout"].values()
    assert asked == [(setup, seed, 7, 9) for setup in arms for seed in (0, 1)]
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("run 1 of 4: layout interleaved, seed 0, ")
    report = json.loads(lines[-1])
    assert report["settings"] == {"seeds": 2, "steps": 7, "samples": 9, "only": ["layout"]}
    assert [row["differs"] for row in report["rows"]] == [["prepended"], ["interleaved"]]
    assert (tmp_path / "benchmarks" / "ablations.png").is_file()
    assert (tmp_path / "ablations.json").read_text() == lines[-1] + "\n"
