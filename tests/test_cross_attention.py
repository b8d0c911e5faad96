"""Images beside the sequence: nothing leaks, closed gates are silent, and every way in which a
model is trained, saved and asked works as for the other model."""

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_models import MAX_IMAGES, batch_of, beside_sequence, small_base
from small_runs import MIXTURE, SETTINGS, interrupt_after, small_dataset
from torch import nn
from transformers import AutoModelForImageTextToText

from vlm_utils.cross_attention import (
    CrossAttentionConfig,
    CrossAttentionVLM,
    GatedCrossAttention,
    PerceiverResampler,
    add_cross_attention,
    gated,
    gates,
    image_mask,
    stack_by_sample,
)
from vlm_utils.evaluation import blind, evaluate, predict, shuffled
from vlm_utils.loading import load_checkpoint
from vlm_utils.sources.folders import DamagedFiles
from vlm_utils.training import TrainingSettings, parameter_groups, resume_run, start_run, train

PLACEHOLDER, TEXT = 7, 1
CLOSE = {"atol": 1e-5, "rtol": 1e-4}
KINDS = {"projector": {}, "latents": {"latents": 3}, "immediate": {"image_mask": "immediate"},
         "feed-forward": {"gated_feed_forward": True}, "one layer": {"layers": [1]}}


@pytest.fixture
def make_beside(processor):
    """A function that builds a small model with cross-attention, and its processor."""
    return lambda **changes: beside_sequence(processor, **changes)


@pytest.fixture(params=KINDS)
def pair(request, make_beside):
    """Each kind of model with cross-attention, and its processor."""
    return make_beside(**KINDS[request.param])


def training_batch(make_sample, processor):
    """A batch of samples with 2, 0, 1 and 3 images."""
    return batch_of([make_sample(2, seed=1), make_sample(0, "Is there a road?", "No."),
                     make_sample(1, "Describe the image.", seed=2),
                     make_sample(3, answer="The lake in the top left grew.", seed=3)], processor)


def logits_of(model, batch):
    with torch.no_grad():
        return model(**{name: value for name, value in batch.items() if name != "labels"}).logits


def prompt_of(processor, prompt, images, picture):
    """One prompt and its images as the model reads them."""
    ids = torch.tensor([processor.encode_prompt(prompt, len(images))])
    return {"input_ids": ids, "pixel_values": processor.pixel_values([picture(k) for k in images])}


# --- masks -------------------------------------------------------------------------------------

@given(st.lists(st.lists(st.sampled_from([PLACEHOLDER, TEXT]), min_size=6, max_size=6),
                min_size=1, max_size=3), st.sampled_from(["preceding", "immediate"]),
       st.integers(0, 2))
def test_image_mask_equals_a_plain_loop(rows, kind, more):
    images = max(row.count(PLACEHOLDER) for row in rows) + more
    found = image_mask(torch.tensor(rows), PLACEHOLDER, kind, images if more else None)
    assert found.dtype == torch.bool and found.shape == (len(rows), 6, images)
    for b, row in enumerate(rows):
        for t in range(6):
            come = row[:t + 1].count(PLACEHOLDER)
            for k in range(images):
                sees = k + 1 == come if kind == "immediate" else k + 1 <= come
                assert found[b, t, k] == sees


@given(st.lists(st.integers(0, 3), min_size=1, max_size=5).filter(any), st.integers(1, 3))
def test_stack_by_sample_equals_a_plain_loop(counts, vectors):
    """A trap: a sample without images stands between others, whose images must not move up."""
    states = 1 + torch.arange(sum(counts) * vectors * 2.0).view(sum(counts), vectors, 2)
    expected, seen = torch.zeros(len(counts), max(counts), vectors, 2), 0
    for b, count in enumerate(counts):
        for k in range(count):
            expected[b, k] = states[seen]
            seen += 1
    assert torch.equal(stack_by_sample(states, torch.tensor(counts)), expected)


# --- a block -----------------------------------------------------------------------------------

@pytest.fixture(params=[False, True], ids=["attention", "with feed-forward"])
def block(request, make_beside):
    model, _ = make_beside(gated_feed_forward=request.param)
    return model.language_model.blocks[0]


def seen_by(block: GatedCrossAttention, images: int = 3):
    """Random text states, keys and values of images of one vector, and no mask yet."""
    torch.manual_seed(1)
    return torch.randn(2, 5, 32), block.keys_values(torch.randn(2, images, 32))


def plain_attention(queries, keys, values, attn_mask, enable_gqa):
    """As its formula stands: a row whose mask is empty becomes nan, as with some kernels."""
    keys, values = (part.repeat_interleave(queries.shape[1] // part.shape[1], dim=1)
                    for part in (keys, values))
    scores = queries @ keys.transpose(-1, -2) / queries.shape[-1] ** 0.5
    return scores.masked_fill(~attn_mask, -torch.inf).softmax(-1) @ values


@pytest.fixture(params=["torch", "plain"])
def kernel_of_attention(request, monkeypatch):
    if request.param == "plain":
        monkeypatch.setattr(gated, "scaled_dot_product_attention", plain_attention)


@pytest.mark.usefixtures("kernel_of_attention")
def test_a_row_that_sees_nothing_leaves_as_it_came_and_is_not_nan(block):
    """A trap: softmax over nothing is nan, or a mean of all images; the feed-forward adds too."""
    states, keys_values = seen_by(block)
    states.requires_grad_()
    mask = torch.zeros(2, 5, 3, dtype=torch.bool)
    mask[0, 2:, 0] = True
    out = block(states, keys_values, mask)
    blind_rows = ~mask.any(-1)
    assert torch.equal(out[blind_rows], states[blind_rows])
    assert not torch.isclose(out[~blind_rows], states[~blind_rows]).all(-1).any()
    upstream = torch.randn_like(out)
    (out * upstream).sum().backward()
    assert torch.equal(states.grad[blind_rows], upstream[blind_rows])
    assert all(p.grad is not None and p.grad.isfinite().all() for p in block.parameters())


@pytest.mark.usefixtures("kernel_of_attention")
def test_where_nothing_is_seen_nothing_is_learnt_and_no_gradient_is_nan(block):
    states, keys_values = seen_by(block)
    block(states, keys_values, torch.zeros(2, 5, 3, dtype=torch.bool)).sum().backward()
    assert all(not p.grad.any() for p in block.parameters())


def test_what_is_hidden_changes_nothing(block):
    states, keys_values = seen_by(block)
    mask = torch.tensor([True, False, True]).expand(2, 5, 3)
    other = keys_values.clone()
    other[..., 1, :] = 100
    assert torch.equal(block(states, keys_values, mask), block(states, other, mask))
    assert not torch.equal(block(states, keys_values, ~mask), block(states, other, ~mask))


# --- closed gates ------------------------------------------------------------------------------

@pytest.mark.parametrize("feed_forward", [False, True])
def test_closed_gates_leave_the_language_model_as_it_was_to_the_bit(
        processor, make_sample, feed_forward):
    base = small_base(processor)
    model, beside = add_cross_attention(base, processor, (0, 1), initial_gate=0.0,
                                        gated_feed_forward=feed_forward)
    batch = training_batch(make_sample, beside)
    alone = base.language_model(batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    assert torch.equal(logits_of(model, batch), alone)
    with torch.no_grad():
        model.language_model.blocks[0].gate.fill_(0.5)
    assert not torch.allclose(logits_of(model, batch), alone, atol=1e-2)


def test_at_closed_gates_only_the_gates_get_a_gradient(make_beside, make_sample):
    model, processor = make_beside(initial_gate=0.0, gated_feed_forward=True)
    model.train()(**training_batch(make_sample, processor)).loss.backward()
    for index, block in enumerate(model.language_model.blocks):
        moved = {name for name, p in block.named_parameters() if p.grad.any()}
        assert moved == {"gate", "feed_forward_gate"}, index
    assert not any(p.grad.any() for p in model.projector.parameters())


def test_gates_tell_how_far_each_is_open(make_beside):
    model, _ = make_beside(layers=[1], gated_feed_forward=True)
    with torch.no_grad():
        model.language_model.blocks[0].feed_forward_gate.fill_(-0.25)
    assert gates(model) == {"layer 2, attention": pytest.approx(0.4621, abs=1e-4),
                            "layer 2, feed-forward": pytest.approx(-0.2449, abs=1e-4)}


# --- what sees what ----------------------------------------------------------------------------

SPREAD = "Look <image> and <image> then <image> What changed?"


@pytest.mark.parametrize("swapped", [0, 1, 2])
def test_an_image_changes_no_row_before_its_placeholder(pair, picture, swapped):
    """A trap: in a well-known library they change, by 2 to 4."""
    model, processor = pair
    images = [1, 2, 3]
    batch = prompt_of(processor, SPREAD, images, picture)
    images[swapped] = 9
    other = prompt_of(processor, SPREAD, images, picture)
    place = int((batch["input_ids"][0] == processor.image_token_id).nonzero()[swapped])
    change = (logits_of(model, batch) - logits_of(model, other))[0].abs().amax(-1)
    assert change[:place].sum() == 0.0 and place > 0
    assert change[place] > 1e-3 and change[-1] > 0


def test_immediate_rows_do_not_see_the_earlier_image_and_it_gets_through_all_the_same(
        make_beside, picture):
    """Through self-attention to the rows between, which saw it. That way cut, nothing is left."""
    model, processor = make_beside(image_mask="immediate")
    batch, other = (prompt_of(processor, SPREAD, images, picture)
                    for images in ([1, 2, 3], [9, 2, 3]))
    first, second, _ = (batch["input_ids"][0] == processor.image_token_id).nonzero().flatten()
    mask = model.mask(batch["input_ids"])[0]
    assert not mask[second:, :model.config.states_per_image].any()
    states = torch.randn(1, len(mask), 32)
    block = model.language_model.blocks[0]
    blocks = [block(states, model.look(**each)["image_keys_values"][:, 0], mask[None])[0]
              for each in (batch, other)]
    assert torch.equal(blocks[0][second:], blocks[1][second:])
    assert not torch.equal(blocks[0][first:second], blocks[1][first:second])
    change = (logits_of(model, batch) - logits_of(model, other))[0].abs().amax(-1)
    assert (change[second:] > 1e-4).all()
    cut = torch.ones_like(batch["input_ids"])
    cut[:, first:second] = 0
    assert torch.equal(*(logits_of(model, each | {"attention_mask": cut})[:, second:]
                         for each in (batch, other)))


@pytest.mark.parametrize("image_order", [False, True])
def test_without_an_order_embedding_exchanged_images_look_the_same(
        make_beside, picture, image_order):
    """Rows after both see the same set; only rows between saw one first, and these are cut off."""
    model, processor = make_beside(image_order=image_order)
    batch, other = (prompt_of(processor, "Look <image> and <image> What changed?", images, picture)
                    for images in ([1, 2], [2, 1]))
    first, second = (batch["input_ids"][0] == processor.image_token_id).nonzero().flatten()
    cut = torch.ones_like(batch["input_ids"])
    cut[:, first:second] = 0
    after = [logits_of(model, each | {"attention_mask": cut})[:, second:]
             for each in (batch, other)]
    assert torch.allclose(*after, **CLOSE) is not image_order
    uncut = [logits_of(model, each)[:, second:] for each in (batch, other)]
    assert not torch.allclose(*uncut, atol=1e-3)


# --- batches -----------------------------------------------------------------------------------

def test_each_sample_of_a_mixed_batch_gets_what_it_gets_alone(pair, make_sample):
    model, processor = pair
    samples = [make_sample(n, seed=n) for n in (2, 0, 3, 1)]
    together = logits_of(model, batch_of(samples, processor))
    for row, sample in zip(together, samples, strict=True):
        alone = logits_of(model, batch_of([sample], processor))[0]
        assert torch.allclose(row[:len(alone)], alone, **CLOSE)


def test_text_without_images_is_read_and_learnt_from(pair, make_sample):
    model, processor = pair
    batch = batch_of([make_sample(0, seed=1), make_sample(0, "Is there a road?")], processor)
    assert "pixel_values" not in batch
    alone = model.language_model(batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    assert torch.equal(logits_of(model, batch), alone)
    model.train()(**batch).loss.backward()
    assert model.get_input_embeddings().weight.grad.any()


def test_what_look_returns_and_features_stand_in_for_pixels(pair, make_sample):
    model, processor = pair
    batch = training_batch(make_sample, processor)
    expected = logits_of(model, batch)
    pixels = batch.pop("pixel_values")
    features = model.encode_images(pixels)
    assert torch.allclose(logits_of(model, batch | {"image_features": features}), expected, **CLOSE)
    seen = model.look(batch["input_ids"], image_features=features)
    assert torch.allclose(logits_of(model, batch | seen), expected, **CLOSE)
    with pytest.raises(ValueError, match="not both"):
        model.look(batch["input_ids"], pixels, features)


@pytest.mark.parametrize(("images", "says"), [
    (5, "sample 3 asks for 3 images and only 2 are left for it; the prompts hold 6 placeholder "
        "tokens = 1 x 6 images, but 5 images were given"),
    (7, r"after the last sample \(3\) 1 images are left over; .* 1 x 6 images, but 7 images"),
    (0, "sample 0 asks for 2 images and only 0 .* but 0 images")])
def test_a_mismatch_names_the_sample_and_both_counts(make_beside, make_sample, images, says):
    model, processor = make_beside()
    batch = training_batch(make_sample, processor)
    features = torch.zeros(images, 16, 32) if images else None
    for call in (model, model.generate):
        with pytest.raises(ValueError, match=says):
            call(input_ids=batch["input_ids"], image_features=features)


def test_more_images_than_there_are_names_are_refused(make_beside):
    model, processor = make_beside()
    ids = torch.full((1, MAX_IMAGES + 1), processor.image_token_id)
    with pytest.raises(ValueError, match="holds 9 images and the model knows the order of 8"):
        model(input_ids=ids, image_features=torch.zeros(MAX_IMAGES + 1, 16, 32))


# --- generation --------------------------------------------------------------------------------

def answers(model, processor, samples, **options):
    batch = batch_of(samples, processor, for_generation=True)
    return model.generate(**batch, **{"max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False,
                                      "pad_token_id": processor.pad_token_id} | options).tolist()


@pytest.mark.parametrize("beams", [1, 3])
def test_a_left_padded_batch_is_answered_as_one_at_a_time(pair, make_sample, beams):
    model, processor = pair
    samples = [make_sample(n, seed=n) for n in (3, 0, 1, 2)]
    alone = [answers(model, processor, [sample], num_beams=beams)[0] for sample in samples]
    assert answers(model, processor, samples, num_beams=beams) == alone
    assert len({tuple(a) for a in alone}) > 1


def test_the_cache_changes_no_token(pair, make_sample):
    """A trap: with embeddings `generate` always caches, so the language model is asked itself; and
    each token once more from the whole text before it."""
    model, processor = pair
    samples = [make_sample(2), make_sample(1, seed=1)]
    batch = batch_of(samples, processor, for_generation=True)
    seen, ids = model.look(batch["input_ids"], batch["pixel_values"]), batch["input_ids"]
    length = ids.shape[1]
    expected = answers(model, processor, samples)
    for use_cache in (False, True):
        new = model.language_model.generate(
            ids, attention_mask=batch["attention_mask"], **seen, use_cache=use_cache,
            do_sample=False, max_new_tokens=6, min_new_tokens=6,
            pad_token_id=processor.pad_token_id)
        assert new[:, length:].tolist() == expected
    text = torch.cat([ids, torch.tensor(expected)], dim=1)
    attention = torch.cat([batch["attention_mask"], torch.ones(2, 6, dtype=torch.long)], dim=1)
    again = logits_of(model, {"input_ids": text, "attention_mask": attention,
                              "pixel_values": batch["pixel_values"]})
    again[..., processor.tokenizer.eos_token_id] = -torch.inf           # min_new_tokens
    assert again[:, length - 1:-1].argmax(-1).tolist() == expected


def test_sampling_repeats_with_its_seed(pair, make_sample):
    model, processor = pair

    def drawn(seed):
        torch.manual_seed(seed)
        return answers(model, processor, [make_sample(2)], do_sample=True, temperature=5.0)

    assert drawn(0) == drawn(0)
    assert len({tuple(drawn(seed)[0]) for seed in range(4)}) > 1


# --- files -------------------------------------------------------------------------------------

@pytest.fixture
def saved(make_beside, tmp_path):
    model, processor = make_beside(latents=3, layers=[1])
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    return tmp_path


def test_a_saved_model_gives_identical_logits_by_every_door(pair, make_sample, tmp_path):
    model, processor = pair
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    batch = training_batch(make_sample, processor)
    expected = logits_of(model, batch)
    for again in (CrossAttentionVLM.from_pretrained(tmp_path), load_checkpoint(tmp_path)[0],
                  AutoModelForImageTextToText.from_pretrained(tmp_path)):
        assert type(again) is CrossAttentionVLM
        assert torch.equal(logits_of(again.eval(), batch), expected)
        assert not any(p.requires_grad for p in again.vision_encoder.parameters())
        head = again.language_model.lm_head.weight
        assert head is again.get_input_embeddings().weight
    assert load_checkpoint(tmp_path)[1].tokens_per_image == 1


@pytest.mark.parametrize(("part", "changes", "words"), [
    (None, {"image_mask": "sideways"}, "image_mask is one of .*not 'sideways'"),
    (None, {"latents": 0}, "latents is a number above 0, not 0"),
    (None, {"latents": 10**9}, "config.json .* holds"),
    (None, {"resampler_layers": 10**9}, "it has 1000000000 layers"),
    (None, {"latents": None}, "weights|config.json"),
    (None, {"image_order": False}, "weights are not those of the model"),
    (None, {"model_type": "multi_image_vlm"}, "weights|config.json"),
    ("text_config", {"cross_attention_layers": [7]}, r"names \[7\], and .* layers 0 to 1"),
    ("text_config", {"cross_attention_layers": [0]}, "weights are not those of the model"),
    ("text_config", {"cross_attention_layers": None}, "name one at least"),
    ("text_config", {"model_type": "llama"}, "weights|config.json")])
def test_a_damaged_config_is_refused(saved, part, changes, words):
    path = saved / "config.json"
    content = json.loads(path.read_text())
    (content if part is None else content[part]).update(changes)
    path.write_text(json.dumps(content))
    with pytest.raises(DamagedFiles, match=words):
        load_checkpoint(saved)


@pytest.mark.parametrize("wrong", [{"image_mask": "all"}, {"latents": -1}, {"resampler_layers": 0}])
def test_a_wrong_setting_is_refused(wrong):
    with pytest.raises(ValueError, match=f"{next(iter(wrong))} is .*not "):
        CrossAttentionConfig(**wrong)


# --- training ----------------------------------------------------------------------------------

def test_gradient_checkpointing_changes_no_gradient(pair, make_sample):
    model, processor = pair
    batch = training_batch(make_sample, processor)
    model.train()(**batch, use_cache=False).loss.backward()
    expected = {name: p.grad.clone() for name, p in model.named_parameters() if p.requires_grad}
    model.zero_grad()
    passes = []
    model.language_model.blocks[0].register_forward_pre_hook(lambda *_: passes.append(1))
    model.gradient_checkpointing_enable()
    model(**batch, use_cache=False).loss.backward()
    assert len(passes) == 2                     # again on the way back, which saves the memory
    for name, p in model.named_parameters():
        if p.requires_grad:
            assert torch.allclose(p.grad, expected[name], **CLOSE), name
    assert expected["image_order.weight"].any() and model.projector is not None


def test_peft_trains_an_adapter_that_is_loaded_with_its_base(saved, make_sample, tmp_path):
    from peft import LoraConfig, get_peft_model
    base, processor = load_checkpoint(saved)
    batch = training_batch(make_sample, processor)
    untrained = logits_of(base, batch)
    wrapped = get_peft_model(base, LoraConfig(
        r=2, target_modules=r"language_model.*\.(q|v)_proj", modules_to_save=["projector"]))
    assert any("cross_attention.q_proj" in name and p.requires_grad
               for name, p in wrapped.named_parameters())
    optimizer = torch.optim.AdamW([p for p in wrapped.parameters() if p.requires_grad], lr=0.02)
    losses = []
    for _ in range(4):
        loss = wrapped(**batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    wrapped.eval().save_pretrained(tmp_path / "adapter")
    again, _ = load_checkpoint(tmp_path / "adapter")
    assert type(again) is CrossAttentionVLM
    assert torch.allclose(logits_of(again, batch), logits_of(wrapped, batch), atol=1e-4)
    assert not torch.allclose(logits_of(again, batch), untrained, atol=1e-2)


def test_latents_and_order_do_not_decay(make_beside):
    """A trap: as bare parameters of two dimensions they would, and Muon would take them."""
    model, _ = make_beside(latents=3, gated_feed_forward=True)
    names = {id(p): name for name, p in model.named_parameters()}
    decayed, kept = ({names[id(p)] for p in group["params"]}
                     for group in parameter_groups(model, 0.05))
    block = "language_model.model.layers.1.cross_attention."
    assert {"projector.latents.weight", "image_order.weight", block + "gate",
            block + "feed_forward_gate", block + "norm.weight"} <= kept
    assert {block + "q_proj.weight", "projector.widen.weight"} <= decayed


def run_of(pair, settings):
    return start_run(*pair, small_dataset(), settings)


def test_training_lowers_the_loss_and_opens_the_gates(make_beside):
    model, processor = make_beside(initial_gate=0.0, latents=3)
    history = train(run_of((model, processor), TrainingSettings(
        steps=30, batch_size=8, learning_rate=5e-3, warmup_steps=3)))
    assert history["loss"].iloc[-5:].mean() < 0.6 * history["loss"].iloc[0]
    assert all(gate != 0 for gate in gates(model).values())


def test_an_interrupted_training_goes_on_as_if_nothing_had_been(make_beside, tmp_path):
    whole = train(run_of(make_beside(), SETTINGS))["loss"].tolist()
    folder = tmp_path / "run"
    train(run_of(make_beside(), SETTINGS), folder, interrupt_after(5))
    run = resume_run(folder, small_dataset())
    assert type(run.model) is CrossAttentionVLM
    assert train(run, folder)["loss"].tolist() == whole
    model, processor = load_checkpoint(folder)
    assert type(model) is CrossAttentionVLM and processor.tokens_per_image == 1
    assert torch.equal(model.image_order.weight, run.model.image_order.weight)


def test_it_is_evaluated_with_its_controls(make_beside):
    model, processor = make_beside()
    dataset = small_dataset(mixture=MIXTURE)
    table = evaluate(model, processor, dataset, max_new_tokens=4)
    assert table["samples"].sum() == len(dataset)
    found = {name: predict(model, processor, each, max_new_tokens=4, min_new_tokens=4)
             for name, each in (("seen", dataset), ("blind", blind(dataset)),
                                ("shuffled", shuffled(dataset)))}
    selections = {name: rows[rows["task"] == "select"] for name, rows in found.items()}
    by_prompt = selections["blind"].groupby("prompt")["prediction"].nunique()
    assert (by_prompt == 1).all()
    assert not found["seen"]["prediction"].equals(found["blind"]["prediction"])
    assert not found["seen"]["prediction"].equals(found["shuffled"]["prediction"])


# --- where it starts ---------------------------------------------------------------------------

@pytest.mark.parametrize("layers", [[2], [-1], [0, 5], []])
def test_layers_that_are_not_there_are_refused(processor, layers):
    with pytest.raises(ValueError, match="the language model has layers 0 to 1"):
        add_cross_attention(small_base(processor), processor, layers)


def test_layers_may_be_named_in_any_order(make_beside, make_sample):
    """A trap: keys and values by the order of the layers, blocks by the order of their names."""
    (first, processor), (second, _) = make_beside(layers=[0, 1]), make_beside(layers=[1, 0, 1])
    batch = training_batch(make_sample, processor)
    assert torch.equal(logits_of(first, batch), logits_of(second, batch))
    second.language_model.config.cross_attention_layers = [1, 0]        # as a file may hold them
    third = CrossAttentionVLM(second.config).eval()
    third.load_state_dict(second.state_dict())
    assert torch.equal(logits_of(first, batch), logits_of(third, batch))


@pytest.mark.parametrize("copied", [True, False])
def test_a_block_starts_as_a_copy_of_its_layers_attention(processor, copied):
    model, _ = add_cross_attention(small_base(processor), processor, [1], copy_attention=copied)
    layer = model.language_model.model.layers[1]
    for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
        block, own = (getattr(part, name).weight for part in
                      (layer.cross_attention, layer.self_attn))
        assert torch.equal(block, own) is copied and block is not own
    assert model.language_model.model.layers[0].cross_attention is None


def test_it_takes_over_the_parts_of_the_base_and_leaves_it_as_it_was(processor):
    base = small_base(processor)
    before = {name: value.clone() for name, value in base.state_dict().items()}
    model, beside = add_cross_attention(base, processor)
    assert model.config.text_config.cross_attention_layers == [1]       # all but the first
    assert model.vision_encoder is base.vision_encoder
    found = model.state_dict()
    assert all(torch.equal(found[name], value) for name, value in before.items())
    with torch.no_grad():
        for part in (model.projector, model.language_model):
            for p in part.parameters():
                p.fill_(0.5)
    model.generation_config.num_beams = 7
    assert all(torch.equal(base.state_dict()[name], value) for name, value in before.items())
    assert base.generation_config.num_beams != 7
    assert (beside.tokens_per_image, processor.tokens_per_image) == (1, 4)


def test_one_seed_one_start(processor):
    weights = [add_cross_attention(small_base(processor), processor, latents=2, seed=seed)[0]
               .projector.latents.weight for seed in (1, 1, 2)]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])


# --- the resampler -----------------------------------------------------------------------------

@settings(max_examples=20)
@given(images=st.integers(0, 3), patches=st.integers(1, 20), latents=st.integers(1, 5),
       layers=st.integers(1, 2))
def test_the_resampler_takes_any_number_of_patches(images, patches, latents, layers):
    torch.manual_seed(0)
    resampler = PerceiverResampler(6, 8, latents, layers, heads=2)
    features = torch.randn(images, patches, 6)
    out = resampler(features)
    assert out.shape == (images, latents, 8) and out.isfinite().all()
    for k in range(images):                             # no image reads another one
        assert torch.allclose(resampler(features[k:k + 1])[0], out[k], **CLOSE)


def test_every_patch_counts_in_the_resampler():
    torch.manual_seed(0)
    features = torch.randn(1, 5, 6, requires_grad=True)
    PerceiverResampler(6, 8, 3, heads=2)(features)[..., 0].sum().backward()
    assert (features.grad.abs().amax(-1) > 0).all()


def test_latents_start_at_the_scale_of_words_and_heads_must_divide():
    torch.manual_seed(0)
    resampler, words = PerceiverResampler(6, 64, 8), 0.02 * torch.randn(100, 64)
    resampler.match_scale(words)
    size = resampler(torch.randn(4, 9, 6)).std().item()
    assert size == pytest.approx(words.std().item(), rel=0.05)
    assert isinstance(resampler.latents, nn.Embedding)
    with pytest.raises(ValueError, match="10 dimensions do not divide into 4 heads"):
        PerceiverResampler(6, 10, 2)
