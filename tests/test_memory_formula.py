"""What a step takes: predicted part by part, and counted."""

import pytest
import torch
from small_models import batch_of, small_base

from vlm_utils.memory import training_memory
from vlm_utils.profiles import TrainingSettings
from vlm_utils.scaling import add_adapter, bytes_of_layer, measure_kept, peak, predict_memory
from vlm_utils.training import make_optimizer


@pytest.fixture
def batch(make_sample, processor):
    """Samples of equal length, so that the mask of attention is small beside the rest."""
    return batch_of([make_sample(3, seed=i) for i in range(4)], processor)


@pytest.fixture
def model(processor):
    """Wide enough for the layers to be most of what is kept."""
    return small_base(processor, hidden_size=64, intermediate_size=256, num_hidden_layers=4,
                      num_attention_heads=4, num_key_value_heads=2)


def step_of(model, batch):
    return lambda: model(**batch, use_cache=False).loss


def test_weights_gradients_and_moments_are_what_they_take(model, batch):
    predicted = predict_memory(model, batch)
    step_of(model.train(), batch)().backward()
    optimizer = make_optimizer(model, TrainingSettings(steps=1))
    optimizer.step()
    measured = training_memory(model, optimizer)
    for name, theirs in (("weights", "weights"), ("gradients", "gradients"),
                         ("moments", "optimizer state")):
        assert predicted[name] == pytest.approx(measured[theirs], rel=0.02), name


@pytest.mark.parametrize("optimizer", ["adamw", "muon", "adafactor"])
def test_moments_are_those_of_the_optimizer(model, batch, optimizer):
    step_of(model.train(), batch)().backward()
    made = make_optimizer(model, TrainingSettings(steps=1, optimizer=optimizer))
    made.step()
    measured = training_memory(model, made)["optimizer state"]
    predicted = predict_memory(model, batch, optimizer)
    assert abs(predicted["moments"] - measured) < 0.12 * 2 * predicted["gradients"]


def test_what_the_layers_keep_is_what_torch_says(model, batch):
    predicted = predict_memory(model.train(), batch)
    measured = measure_kept(step_of(model, batch), model)
    assert predicted["activations"] + predicted["logits"] == pytest.approx(measured, rel=0.15)


def test_a_checkpointed_step_keeps_one_input_for_each_layer(model, batch):
    whole = measure_kept(step_of(model.train(), batch), model)
    model.activation_checkpointing_enable()
    kept = measure_kept(step_of(model, batch), model)
    assert kept < whole / 3
    predicted = predict_memory(model, batch, checkpointed=True)
    tokens = batch["input_ids"].numel()
    assert predicted["activations"] == pytest.approx(4 * tokens * 64 * 4 / 1e6)
    assert predicted["worked on"] == pytest.approx(2 * tokens * bytes_of_layer(64, 256, 4) / 1e6)


def test_logits_of_every_position_are_many_times_those_of_the_answers(model, batch):
    """A trap: the loss reads four places, and the library computes all of them."""
    answers = int((batch["labels"] != -100).sum())
    few, all_of_them = (predict_memory(model, batch, all_logits=wanted)["logits"]
                        for wanted in (False, True))
    assert all_of_them == pytest.approx(few * batch["labels"].numel() / answers)


def test_half_of_the_bytes_are_less_than_half_of_what_is_kept(model, batch):
    """A trap: norms compute in float32 whatever the weights are."""
    whole = predict_memory(model, batch)
    half = predict_memory(model.bfloat16(), batch)
    assert half["weights"] == pytest.approx(whole["weights"] / 2)
    assert whole["activations"] / 2 < half["activations"] < whole["activations"]
    measured = measure_kept(step_of(model.train(), batch), model)
    assert half["activations"] + half["logits"] == pytest.approx(measured, rel=0.15)


def test_an_adapter_has_few_gradients_and_all_activations(model, batch):
    whole, adapted = predict_memory(model, batch), predict_memory(add_adapter(model, 2), batch)
    assert adapted["gradients"] < 0.2 * whole["gradients"]
    assert adapted["activations"] == whole["activations"]
    assert adapted["weights"] > whole["weights"]


def test_the_peak_is_at_one_end_of_backward_or_the_other():
    parts = {"weights": 10.0, "gradients": 8.0, "moments": 16.0, "activations": 5.0, "logits": 1.0}
    assert peak(parts, embeddings=2.0) == 10 + 16 + 8 + 2 * 2           # as it ends
    assert peak(parts | {"activations": 50.0}, embeddings=2.0) == 10 + 16 + 50 + 1 + 2
    assert peak(parts) == 10 + 16 + 8
    assert peak(parts | {"worked on": 7.0}) == 10 + 16 + 5 + 1 + 7


def test_adapters_in_float32_copy_what_layers_in_half_precision_hand_them(make_model, batch):
    """A trap: half of the base, and the activations do not become half."""
    predicted = {half: predict_memory(add_adapter(make_model(), half_base=half), batch)
                 for half in (False, True)}
    assert predicted[True]["activations"] > 0.6 * predicted[False]["activations"]
    assert predicted[True]["weights"] < 0.7 * predicted[False]["weights"]


def test_what_is_kept_is_counted_once_and_weights_are_not():
    layer = torch.nn.Linear(100, 100, bias=False)
    x = torch.ones(50, 100)

    def step():
        y = layer(x)                                # keeps x
        return (y * y).sum() + (x[:10] @ x[:10].T * layer.weight.sum()).sum()
    # x once, although it is kept whole and in part; y once; 10 x 10 products
    assert measure_kept(step, layer) == pytest.approx((2 * 5000 + 100) * 4 / 1e6, rel=0.01)
