"""The faster parts of a Llama compute what transformers' own compute, and leave no trace."""

import copy
import shutil
import sys
from dataclasses import replace

import pytest
import torch
from accelerate import Accelerator
from small_models import batch_of, small_base
from small_runs import SETTINGS, losses_of, small_run

from vlm_utils.scaling import add_adapter
from vlm_utils.training import faster, loop, run

PARTS = faster.PARTS


@pytest.fixture(autouse=True)
def _rows_for_small_models_too(monkeypatch):
    monkeypatch.setattr(faster, "WORTH_A_CALL", 0)


@pytest.fixture
def base(processor):
    """Two layers, key-value heads shared, weights of norms that are not all one."""
    model = small_base(processor)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, weight in model.language_model.named_parameters():
            if "norm" in name:
                weight.add_(0.3 * torch.randn(weight.shape, generator=generator))
    return model.train()


@pytest.fixture
def batch(processor, make_sample):
    """Three samples of different lengths, padded on the right."""
    samples = [make_sample(3, seed=1), make_sample(2, "Which image shows: a lake?", "<image_2>", 2),
               make_sample(1, "Describe the image.", "A lake.", seed=3)]
    batch = batch_of(samples, processor)
    assert 0 < int((batch["attention_mask"] == 0).sum())
    return batch


def learnt(model, batch):
    """The loss, and the gradient of every trained weight by its name."""
    model.zero_grad()
    loss = model(**batch, use_cache=False).loss
    loss.backward()
    return loss.item(), {name: weight.grad.clone() for name, weight in model.named_parameters()
                         if weight.grad is not None}


def assert_same(model, batch, parts=PARTS):
    expected, gradients = learnt(model, batch)
    faster.speed_up(model, parts)
    assert any(type(m).__module__ == faster.__name__ or getattr(m, "sparse", False)
               for m in model.modules())
    loss, found = learnt(model, batch)
    assert loss == pytest.approx(expected, abs=1e-5)
    assert found.keys() == gradients.keys()
    for name, gradient in gradients.items():
        size = gradient.abs().max().item()
        assert size > 0, name
        torch.testing.assert_close(found[name], gradient, atol=1e-5 * size, rtol=1e-4, msg=name)


@pytest.mark.parametrize("parts", [*((part,) for part in PARTS), PARTS], ids=str)
def test_loss_and_gradients_are_those_of_the_unmodified_model(base, batch, parts):
    assert_same(base, batch, parts)


def test_padding_on_the_left_keeps_its_mask(base, batch):
    """A trap: without a mask, a word would see the padding before it."""
    left = {"input_ids", "attention_mask", "labels"}
    padding = (batch["attention_mask"] == 0).sum(dim=1).tolist()
    turned = {name: torch.stack([row.roll(n) for row, n in zip(value, padding, strict=True)])
              if name in left else value for name, value in batch.items()}
    assert not turned["attention_mask"][:, 0].all()
    assert_same(base, turned)


def test_a_mask_that_changes_nothing_shows_that_words_see_only_what_is_before_them(base, batch):
    """Else the mask could not be dropped: another text in the padding changes no loss."""
    faster.speed_up(base)
    expected = base(**batch, use_cache=False).loss.item()
    filled = torch.where(batch["attention_mask"] == 1, batch["input_ids"], 5)
    assert not torch.equal(filled, batch["input_ids"])
    assert base(**batch | {"input_ids": filled}, use_cache=False).loss.item() \
        == pytest.approx(expected, abs=1e-6)


def test_samples_in_one_row_are_not_padded_and_do_not_see_each_other(base, batch):
    """A trap: attention over the whole row. The first sample's loss would see no change, the
    others' would; so another first sample must leave the states of the others as they are."""
    faster.speed_up(base)
    rows = []
    base.language_model.model.layers[0].mlp.register_forward_hook(
        lambda module, given, found: rows.append(found.shape[:2]))
    inner, words = base.language_model.model, int(batch["attention_mask"].sum())
    embeddings = base.embed(batch["input_ids"], batch["pixel_values"]).detach()
    other = embeddings.clone()
    other[0] += 1
    states, changed = (inner(inputs_embeds=each, attention_mask=batch["attention_mask"],
                             use_cache=False).last_hidden_state for each in (embeddings, other))
    assert rows == [(1, words)] * 2
    assert not torch.allclose(states[0], changed[0], atol=1e-3)
    torch.testing.assert_close(states[1:], changed[1:], atol=1e-6, rtol=1e-6)


def test_a_small_model_is_padded_as_ever(base, batch, monkeypatch):
    """Many calls of the attention would take longer than its padding."""
    monkeypatch.undo()
    assert faster.WORTH_A_CALL > 0
    model = base.language_model.model
    faster.speed_up(base)
    embeddings = base.get_input_embeddings()(batch["input_ids"])
    assert not model.packs(embeddings, batch["attention_mask"])
    monkeypatch.setattr(model.config, "hidden_size", 4096)
    assert model.packs(embeddings, batch["attention_mask"])


def test_an_adapter_is_not_passed_over(base, batch):
    """A trap: multiplying by layer.weight leaves out what LoRA adds to it."""
    adapted = add_adapter(base, rank=4).train()
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.1)
    assert_same(adapted, batch)


def test_a_frozen_language_model_has_no_gradients_and_the_projector_its_own(base, batch):
    base.language_model.requires_grad_(False)
    assert_same(base, batch)
    assert all(weight.grad is None for weight in base.language_model.parameters())


def test_activations_may_be_computed_again_in_the_backward_pass(base, batch):
    expected, gradients = learnt(base, batch)
    faster.speed_up(base)
    base.gradient_checkpointing_enable()
    loss, found = learnt(base, batch)
    assert loss == pytest.approx(expected, abs=1e-5)
    for name, gradient in gradients.items():
        size = gradient.abs().max().item()
        torch.testing.assert_close(found[name], gradient, atol=1e-5 * size, rtol=1e-4, msg=name)


def test_in_half_precision_the_parts_are_transformers_own(base, batch):
    with torch.autocast("cpu", torch.bfloat16):
        expected, gradients = learnt(base, batch)
        faster.speed_up(base, PARTS)
        loss, found = learnt(base, batch)
    assert loss == pytest.approx(expected, abs=2e-2)
    assert found.keys() == gradients.keys()


def test_embeddings_that_are_not_tied_keep_their_dense_gradient(processor, batch):
    """A trap: fused AdamW takes no sparse gradient, and only a tied one becomes dense again."""
    model = small_base(processor, tie_word_embeddings=False).train()
    assert model.get_output_embeddings().weight is not model.get_input_embeddings().weight
    assert_same(model, batch, ["norms", "embedding"])
    assert not model.get_input_embeddings().weight.grad.is_sparse


@pytest.mark.skipif(sys.platform != "linux" or shutil.which("g++") is None,
                    reason="torch.compile needs a C++ compiler: g++ was not found")
def test_compiled_they_compute_the_same(base, batch, monkeypatch):
    monkeypatch.setattr(faster, "KERNELS", dict(faster.KERNELS))
    faster.compile_kernels()
    assert not set(faster.KERNELS.values()) & set(faster.PLAIN_KERNELS.values())
    assert_same(base, batch)


def test_names_of_weights_and_answers_stay(base, batch, processor, make_sample):
    names = list(base.state_dict())
    prompt = batch_of([make_sample(2, seed=4)], processor, for_generation=True)
    options = {"max_new_tokens": 5, "do_sample": False, "pad_token_id": processor.pad_token_id}
    expected = base.eval().generate(**prompt, **options)
    faster.speed_up(base)
    assert list(base.state_dict()) == names
    assert torch.equal(base.generate(**prompt, **options), expected)
    copied = copy.deepcopy(base)                    # as lessons do
    with torch.no_grad():
        next(copied.language_model.parameters()).add_(1)
    assert torch.equal(base.generate(**prompt, **options), expected)


def test_slow_down_undoes_it(base):
    before = [type(module) for module in base.modules()]
    faster.speed_up(base)
    assert [type(module) for module in base.modules()] != before
    faster.slow_down(base)
    assert [type(module) for module in base.modules()] == before
    assert not base.get_input_embeddings().sparse


# --- in a training ------------------------------------------------------------------------------

def test_a_training_uses_them_and_gives_the_model_back(monkeypatch):
    """Its losses are those of transformers' own parts, while the weights move."""
    own = small_run(dropout=0.0)
    before = [type(module) for module in own.model.modules()]
    during = []
    found = losses_of(own, on_step=lambda row: during.append(
        [type(module) for module in own.model.modules()]))
    assert len(during) == SETTINGS.steps and all(types != before for types in during)
    assert [type(module) for module in own.model.modules()] == before
    assert not own.model.get_input_embeddings().sparse

    monkeypatch.setattr(run, "speed_up", lambda model: None)
    monkeypatch.setattr(loop, "clip_gradients", lambda accelerator, model, length:
                        accelerator.clip_grad_norm_(model.parameters(), length))
    expected = losses_of(small_run(dropout=0.0))
    assert expected[-1] < expected[0]
    assert found == pytest.approx(expected, abs=1e-5)


def test_a_training_that_fails_gives_the_model_back():
    def fail(row):
        raise ValueError("enough")

    own = small_run()
    before = [type(module) for module in own.model.modules()]
    with pytest.raises(ValueError, match="enough"):
        losses_of(own, on_step=fail)
    assert [type(module) for module in own.model.modules()] == before


def test_in_half_precision_a_training_keeps_transformers_own_parts():
    own = small_run(replace(SETTINGS, steps=1, precision="bf16", checkpoint_every=0))
    types = []
    losses_of(own, on_step=lambda row: types.extend(type(m) for m in own.model.modules()))
    assert types and not any(each.__module__ == faster.__name__ for each in types)


@pytest.mark.parametrize("length", [1e-3, 1e3])
def test_gradients_are_clipped_as_accelerate_does(base, batch, length):
    accelerator = Accelerator(cpu=True)
    base(**batch, use_cache=False).loss.backward()
    trained = [weight for weight in base.parameters() if weight.grad is not None]
    whole = [weight.grad.clone() for weight in trained]
    faster.clip_gradients(accelerator, base, length)
    found = [weight.grad for weight in trained]
    for weight, gradient in zip(trained, whole, strict=True):
        weight.grad = gradient.clone()
    accelerator.clip_grad_norm_(base.parameters(), length)
    for weight, gradient in zip(trained, found, strict=True):
        torch.testing.assert_close(gradient, weight.grad, atol=1e-9, rtol=1e-5)
    assert (length < 1) == any(not torch.equal(a, b) for a, b in zip(whole, found, strict=True))


def test_a_part_that_there_is_not_is_named(base):
    with pytest.raises(ValueError, match="no such part: speed; there are mask, norms"):
        faster.speed_up(base, ["speed"])
