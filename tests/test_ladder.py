"""The ladder of lesson 04: rungs that compute the same, and a model that is left as it was.

No test says how fast a rung is: that is measured in the lesson, on the reader's machine.
"""

import copy
import gc
import time
import weakref

import numpy as np
import pytest
import torch
from small_models import TOKENS

from vlm_utils import plots
from vlm_utils.architecture import MultiImageVLM
from vlm_utils.datasets import build_tasks
from vlm_utils.training import answer_weights, ladder

NAMES = ["naive", "features once", "fewer tokens", "dynamic padding", "answer logits only",
         "bfloat16"]
BATCH_SIZE, STEPS, PATCHES = 4, 3, 16


@pytest.fixture(scope="module")
def dataset(earth_table):
    return build_tasks(earth_table, {"select 2": 5, "compare 2": 5, "sequence 2-4": 5}, seed=0)


@pytest.fixture(scope="module")
def table(make_model, processor, dataset):
    return ladder.climb(make_model(), processor, dataset, BATCH_SIZE, STEPS)


@pytest.fixture(scope="module")
def rungs(make_model, processor, dataset):
    made = ladder.build_rungs(make_model(), processor, dataset, BATCH_SIZE, STEPS)
    return {rung.name: rung for rung in made}


def losses(rung) -> list[float]:
    """Of every batch, with the weights the rung starts from."""
    found = []
    for batch in rung.batches:
        weights = answer_weights(batch["labels"], "tokens")
        half = torch.autocast("cpu", torch.bfloat16, enabled=rung.precision == "bf16")
        with torch.no_grad(), half:
            found.append(rung.model(**batch, loss_weights=weights, use_cache=False,
                                    num_items_in_batch=weights.sum()).loss.item())
    return found


# --- what the table says -----------------------------------------------------------------------

def test_each_rung_is_measured_in_order(table):
    assert table["rung"].tolist() == NAMES
    numbers = table[["first_loss", "samples_per_second", "times_naive"]].to_numpy()
    assert np.isfinite(numbers).all() and (numbers > 0).all()
    assert table["times_naive"][0] == 1
    assert table["change"].str.len().max() <= 50, "pandas would cut it off"


def test_only_encoding_once_costs_something_before(table):
    assert (table["seconds_once"] > 0).tolist() == [name == "features once" for name in NAMES]


def test_the_first_loss_is_that_of_the_starting_weights(table, rungs):
    # The new projectors of the two differ: the first two rungs are left out.
    for row in table[2:].itertuples():
        assert row.first_loss == pytest.approx(losses(rungs[row.rung])[0], abs=1e-4)


# --- what the rungs compute --------------------------------------------------------------------

@pytest.mark.parametrize("name", ["features once", "dynamic padding", "answer logits only"])
def test_rungs_that_change_no_mathematics_change_no_loss(rungs, table, name):
    before = NAMES[NAMES.index(name) - 1]
    assert losses(rungs[name]) == pytest.approx(losses(rungs[before]), abs=1e-4)
    first = table.set_index("rung")["first_loss"]
    assert first[name] == pytest.approx(first[before], abs=1e-4)


def test_half_precision_is_near_and_not_the_same(rungs):
    exact, half = losses(rungs["answer logits only"]), losses(rungs["bfloat16"])
    assert half == pytest.approx(exact, rel=0.05)
    assert half != exact


def test_every_rung_has_the_same_answers_in_the_same_batches(rungs):
    def answers(rung):
        return [[row[row != -100].tolist() for row in batch["labels"]] for batch in rung.batches]
    expected = answers(rungs["naive"])
    assert len(expected) == STEPS and all(len(batch) == BATCH_SIZE for batch in expected)
    assert all(answers(rung) == expected for rung in rungs.values())


def test_only_the_naive_step_encodes_images_and_one_by_one(rungs, monkeypatch):
    calls = []
    original = MultiImageVLM.encode_images

    def counted(self, pixel_values):
        calls.append(len(pixel_values))
        return original(self, pixel_values)

    monkeypatch.setattr(MultiImageVLM, "encode_images", counted)
    for rung in rungs.values():
        calls.clear()
        ladder.make_step(copy.deepcopy(rung.model), rung.precision)(rung.batches[0])
        images = len(rung.batches[0]["pixel_values"]) if rung.name == "naive" else 0
        assert calls == [1] * images


def test_lengths_are_fixed_until_padding_is_dynamic(rungs, dataset):
    recipes = dataset.recipes[:BATCH_SIZE * STEPS]
    most = max(len(recipe.rows) for recipe in recipes)
    for name, tokens in (("naive", PATCHES), ("features once", PATCHES), ("fewer tokens", TOKENS)):
        shapes = {batch["input_ids"].shape for batch in rungs[name].batches}
        assert shapes == {(BATCH_SIZE, most * tokens + ladder.TEXT_LENGTH)}
    for batch in rungs["dynamic padding"].batches:
        longest = batch["attention_mask"].sum(dim=1).max()
        assert batch["input_ids"].shape == (BATCH_SIZE, longest)


def test_a_step_moves_what_is_trained_and_nothing_else(rungs):
    rung = rungs["answer logits only"]
    trained = copy.deepcopy(rung.model)
    ladder.make_step(trained)(rung.batches[0])
    moved = {name.split(".")[0] for (name, old), new
             in zip(rung.model.state_dict().items(), trained.state_dict().values(), strict=True)
             if not torch.equal(old, new)}
    assert moved == {"projector", "language_model"}


def test_a_text_longer_than_the_fixed_length_is_not_cut():
    row = torch.arange(6).reshape(1, 6)
    batch = {"input_ids": row, "attention_mask": torch.ones_like(row), "labels": row}
    padded = ladder.pad_further(batch, 4, pad_token_id=9)
    assert all(torch.equal(padded[name], batch[name]) for name in batch)
    assert ladder.pad_further(batch, 8, 9)["input_ids"].tolist() == [[0, 1, 2, 3, 4, 5, 9, 9]]


def test_too_few_samples_are_refused(model, processor, dataset):
    with pytest.raises(ValueError, match="15 samples do not fill one batch of 16"):
        ladder.climb(model, processor, dataset, batch_size=16)


# --- what is left as it was --------------------------------------------------------------------

@pytest.mark.parametrize("frozen", [True, False])
def test_the_given_model_and_the_random_state_are_untouched(make_model, processor, dataset,
                                                             frozen):
    model = make_model(frozen=frozen).train(not frozen)
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    flags = [p.requires_grad for p in model.parameters()]
    modes = [module.training for module in model.modules()]
    config, tokens = model.config.to_dict(), processor.tokens_per_image
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()
    ladder.climb(model, processor, dataset, BATCH_SIZE, steps=1)
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert (np.random.get_state()[1] == numpy_state).all()
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    assert [p.requires_grad for p in model.parameters()] == flags
    assert [module.training for module in model.modules()] == modes
    assert all(p.grad is None for p in model.parameters())
    assert (model.config.to_dict(), processor.tokens_per_image) == (config, tokens)


@pytest.mark.parametrize("only_frozen", [False, True])
def test_a_copy_takes_no_memory_for_what_is_not_trained(model, only_frozen):
    """A trap: six rungs with weights of their own are 18 GB at full size."""
    copied = ladder.share_weights(model, only_frozen)
    for (name, theirs), ours in zip(model.named_parameters(), copied.parameters(), strict=True):
        own = only_frozen and theirs.requires_grad
        assert (ours.data_ptr() == theirs.data_ptr()) != own, name
        assert ours is not theirs and ours.requires_grad == theirs.requires_grad
        assert torch.equal(ours, theirs)
    assert copied.get_output_embeddings().weight is copied.get_input_embeddings().weight
    copied.freeze_vision_encoder().requires_grad_(False)
    assert any(p.requires_grad for p in model.parameters())


def test_one_set_of_trained_weights_is_alive_at_a_time(make_model, processor, dataset, monkeypatch):
    alive, most = weakref.WeakSet(), []
    make_step = ladder.make_step

    def counted(model, precision="no"):
        alive.add(model)
        gc.collect()
        most.append(len(alive))
        return make_step(model, precision)

    monkeypatch.setattr(ladder, "make_step", counted)
    ladder.climb(make_model(), processor, dataset, BATCH_SIZE, steps=1)
    assert most == [1] * len(NAMES)


@pytest.mark.parametrize(("device", "half", "expected"), [
    ("cpu", "no", "bf16"), ("cuda", "bf16", "bf16"), ("cuda", "fp16", "fp16"),
    ("mps", "no", None)])
def test_the_last_rung_is_what_the_device_can_multiply_in(monkeypatch, device, half, expected):
    monkeypatch.setattr(ladder, "half_precision", lambda: half)
    assert ladder.best_half_precision(torch.device(device)) == expected


def test_without_half_precision_there_is_a_rung_less(make_model, processor, dataset, monkeypatch):
    monkeypatch.setattr(ladder, "best_half_precision", lambda device: None)
    rungs = ladder.build_rungs(make_model(), processor, dataset, BATCH_SIZE, STEPS)
    assert [rung.name for rung in rungs] == NAMES[:-1]
    monkeypatch.setattr(ladder, "best_half_precision", lambda device: "fp16")
    rung = ladder.build_rungs(make_model(), processor, dataset, BATCH_SIZE, STEPS)[-1]
    assert (rung.name, rung.precision) == ("float16", "fp16")


# --- the clock and the figure ------------------------------------------------------------------

def test_the_speed_is_the_median_after_a_warm_up(monkeypatch):
    now, seen = [0.0], []
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])

    def step(batch):
        seen.append(batch["seconds"])
        now[0] += batch["seconds"]

    batches = [{"input_ids": torch.zeros(8, 5), "seconds": s} for s in (4.0, 1.0, 2.0)]
    assert ladder.samples_per_second(step, batches, warmup=1) == 4.0     # of 2, 8 and 4
    assert seen == [4.0, 4.0, 1.0, 2.0]


def test_the_figure_has_a_bar_a_rung_and_marks_a_slower_one(table):
    table = table.assign(samples_per_second=[2.5, 20.0, 30.0, 40.0, 1500.0, 90.0])
    axis = plots.draw_ladder(table).axes[0]
    widths = [bar.get_width() for bar in axis.containers[0]]
    assert widths == table["samples_per_second"].tolist()
    colours = [bar.get_facecolor() for bar in axis.containers[0]]
    assert len(set(colours[:5])) == 1 and colours[5] != colours[0]
    texts = " ".join(text.get_text() for text in axis.texts)
    assert "2.5" in texts and "1,500" in texts and "s once" in texts
