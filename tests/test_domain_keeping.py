"""benchmarks/keeping.py: what is tried against forgetting does what it says."""

import numpy as np
import pytest
import torch
from small_models import small_model

from vlm_utils.datasets import build_tasks
from vlm_utils.profiles import REPOSITORY
from vlm_utils.real_data import grow_encoder
from vlm_utils.training import TrainingSettings, start_run, train

GROWN = {"widths": (8, 8, 8, 8), "conv_size": 8}


@pytest.fixture
def keeping(monkeypatch):
    monkeypatch.syspath_prepend(str(REPOSITORY / "benchmarks"))
    import keeping
    return keeping


@pytest.fixture
def model(processor):
    return small_model(processor)


def test_weights_go_back_part_of_the_way(keeping, model):
    before = keeping.weights_of(model)
    start = {name: p.clone() for name, p in before.items()}
    with torch.no_grad():
        for p in model.parameters():
            p.add_(1.0)
    keeping.move_back(model, before, 0.25)
    named = dict(model.named_parameters())
    assert all(torch.allclose(named[name], p + 0.75, atol=1e-5) for name, p in start.items())
    keeping.move_back(model, before, 1.0)
    assert all(torch.allclose(named[name], p, atol=1e-6) for name, p in start.items())
    assert any(name.startswith("projector.") for name in before)
    assert not any(name.startswith("vision_encoder.") for name in before)


def test_weights_of_another_model_are_refused(keeping, model, processor):
    """A trap: weights from before the model grew have fewer columns."""
    before = keeping.weights_of(model)
    with pytest.raises(ValueError, match="after it has grown"):
        keeping.move_back(grow_encoder(small_model(processor), **GROWN), before, 0.5)
    with pytest.raises(ValueError, match="share=1.5"):
        keeping.move_back(model, before, 1.5)


def taught_run(keeping, model, teacher, processor, table, taught, **settings):
    samples = build_tasks(table, {"select 2": 16, "refer 1": 16}, seed=0)
    taught = [taught] * len(samples)
    return keeping.start_taught_run(
        model, teacher, keeping.TaughtSamples(samples, processor, taught),
        TrainingSettings(**{"steps": 1, "batch_size": 8, "warmup_steps": 0} | settings))


def test_a_student_that_says_what_its_teacher_says_loses_nothing(keeping, model, processor,
                                                                 earth_table):
    """A trap: the right answer of a taught sample is learnt as well, or padding is."""
    run = taught_run(keeping, model, small_model(processor), processor, earth_table, True)
    assert train(run)["loss"].iloc[0] == pytest.approx(0, abs=1e-5)
    other = taught_run(keeping, small_model(processor), small_model(processor, seed=1), processor,
                       earth_table, True)
    assert train(other)["loss"].iloc[0] > 0.01


def test_samples_that_are_not_taught_are_learnt_as_ever(keeping, processor, earth_table):
    samples = build_tasks(earth_table, {"select 2": 16, "refer 1": 16}, seed=0)
    settings = TrainingSettings(steps=3, batch_size=8, warmup_steps=0)
    plain = train(start_run(small_model(processor), processor, samples, settings))
    run = taught_run(keeping, small_model(processor), small_model(processor, seed=1), processor,
                     earth_table, False, steps=3)
    assert np.allclose(train(run)["loss"], plain["loss"], atol=1e-6)


def test_a_teacher_brings_its_student_nearer_and_stays_as_it_was(keeping, processor, earth_table):
    student, teacher = small_model(processor), small_model(processor, seed=1)
    teacher.vision_encoder.load_state_dict(student.vision_encoder.state_dict())
    before = {name: p.clone() for name, p in teacher.state_dict().items()}
    run = taught_run(keeping, student, teacher, processor, earth_table, True, steps=30,
                     learning_rate=1e-2)
    losses = train(run)["loss"]
    assert losses.iloc[-3:].mean() < 0.7 * losses.iloc[:3].mean()
    assert all(torch.equal(p, before[name]) for name, p in teacher.state_dict().items())
    assert not student.training


def test_each_sample_says_whether_it_is_taught(keeping, processor, earth_table):
    samples = build_tasks(earth_table, {"select 2": 4}, seed=0)
    with pytest.raises(ValueError, match="3 truth values for 4 samples"):
        keeping.TaughtSamples(samples, processor, [True] * 3)


def test_the_language_model_has_a_learning_rate_of_its_own(keeping, processor, earth_table):
    samples = build_tasks(earth_table, {"select 2": 16}, seed=0)
    settings = TrainingSettings(steps=2, batch_size=8, learning_rate=1e-2, optimizer="muon",
                                warmup_steps=0)
    model = small_model(processor)
    run = keeping.slow_language_model(start_run(model, processor, samples, settings), 0.2)
    rates = {id(p): round(group["initial_lr"], 9)
             for group in run.optimizer.param_groups for p in group["params"]}
    assert len(rates) == sum(1 for p in model.parameters() if p.requires_grad)
    for part, rate in ((model.projector, 1e-2), (model.language_model, 2e-3)):
        assert {rates[id(p)] for p in part.parameters()} == {rate}
    before = [p.detach().clone() for p in model.language_model.parameters()]
    train(run)
    moved = [float((p - b).abs().max().detach()) for p, b in zip(
        model.language_model.parameters(), before, strict=True)]
    assert max(moved) > 0
    with pytest.raises(ValueError, match="only a run with Muon"):
        keeping.slow_language_model(
            start_run(model, processor, samples, TrainingSettings(steps=1, batch_size=8)), 0.2)
