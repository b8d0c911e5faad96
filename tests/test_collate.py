"""Samples with different numbers of images in one batch: no image invented, none lost."""

import copy
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from small_models import TOKENS, batch_of
from torch.utils.data import DataLoader

from vlm_utils.collate import (
    LengthGroupedSampler,
    collate,
    fill_with_black_images,
)
from vlm_utils.datasets import EncodedSamples, Sample, build_tasks


@pytest.fixture
def samples(make_sample):
    return [make_sample(2, seed=1), make_sample(1, "Describe the image.", seed=2),
            make_sample(4, answer="The lake grew.", seed=3)]


# --- images ------------------------------------------------------------------------------------

def test_images_are_one_flat_stack_in_order(processor, samples):
    stack = batch_of(samples, processor)["pixel_values"]
    images = [image for sample in samples for image in sample.images]
    assert stack.shape == (7, 3, 64, 64)
    assert torch.equal(stack, processor.pixel_values(images))


@given(st.lists(st.integers(1, 8), min_size=1, max_size=4))
@settings(max_examples=20)
def test_there_are_as_many_images_as_the_samples_have(processor, make_sample, counts):
    batch = batch_of([make_sample(n, seed=i) for i, n in enumerate(counts)], processor)
    assert len(batch["pixel_values"]) == sum(counts)
    placeholders = (batch["input_ids"] == processor.image_token_id).sum(1)
    assert placeholders.tolist() == [n * TOKENS for n in counts]


def test_a_black_image_is_an_image(model, processor, picture):
    """A trap: whoever knows padding by its zeros loses a picture of the night."""
    class Plain:  # without normalisation, black is zero in the tensor as well
        def __call__(self, images, return_tensors):
            pixels = np.stack([np.asarray(image.resize((64, 64))) for image in images])
            return {"pixel_values": torch.tensor(pixels).permute(0, 3, 1, 2) / 255}

    processor = copy.copy(processor)
    processor.image_processor = Plain()
    black = Sample([picture(1), Image.new("RGB", (64, 64))], "<image><image>Go", "Yes.", "compare")
    batch = batch_of([black], processor)
    assert len(batch["pixel_values"]) == 2 and not batch["pixel_values"][1].any()
    assert batch["attention_mask"].all()
    white = batch | {"pixel_values": batch["pixel_values"].clone()}
    white["pixel_values"][1] = 1
    assert not torch.allclose(model(**batch).logits, model(**white).logits, atol=1e-3)


def test_encoded_images_take_the_place_of_pixels(processor):
    samples = [Sample([], "<image>" * n + "Go", "Yes.", "select", torch.full((n, 16, 32), float(n)))
               for n in (2, 1)]
    batch = batch_of(samples, processor)
    assert "pixel_values" not in batch
    assert batch["image_features"][:, 0, 0].tolist() == [2, 2, 1]


# --- text --------------------------------------------------------------------------------------

def test_training_pads_on_the_right_and_learns_answers_alone(processor, samples):
    batch = batch_of(samples, processor)
    lengths = batch["attention_mask"].sum(1)
    assert batch["input_ids"].shape == batch["labels"].shape == (3, int(lengths.max()))
    for row, sample in enumerate(samples):
        prompt = processor.encode_prompt(sample.prompt, len(sample.images))
        answer = processor.encode_answer(sample.answer)
        padding = int(lengths.max()) - len(prompt + answer)
        assert batch["input_ids"][row].tolist() == \
            prompt + answer + [processor.pad_token_id] * padding
        assert batch["attention_mask"][row].tolist() == [1] * len(prompt + answer) + [0] * padding
        assert batch["labels"][row].tolist() == [-100] * len(prompt) + answer + [-100] * padding


def test_generation_pads_on_the_left_and_does_not_know_the_answers(processor, samples):
    batch = batch_of(samples, processor, for_generation=True)
    assert "labels" not in batch
    longest = batch["input_ids"].shape[1]
    for row, sample in enumerate(samples):
        prompt = processor.encode_prompt(sample.prompt, len(sample.images))
        padding = longest - len(prompt)
        assert batch["input_ids"][row].tolist() == [processor.pad_token_id] * padding + prompt
        assert batch["attention_mask"][row].tolist() == [0] * padding + [1] * len(prompt)


def test_the_end_is_learnt_and_padding_is_not_where_both_are_one_token(make_processor, samples):
    tokenizer = copy.deepcopy(make_processor().tokenizer)
    tokenizer.pad_token = tokenizer.eos_token
    batch = batch_of(samples, make_processor(tokenizer))
    for labels, mask in zip(batch["labels"], batch["attention_mask"], strict=True):
        assert (labels == tokenizer.eos_token_id).sum() == 1
        assert labels[int(mask.sum()) - 1] == tokenizer.eos_token_id


@given(st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=6), min_size=1), st.booleans())
def test_padding_loses_no_token(rows, left):
    encoded = [{"input_ids": row, "labels": [-100] * (len(row) - 1) + row[-1:]} for row in rows]
    batch = collate(encoded, 0, left)
    for i, row in enumerate(encoded):
        kept = batch["attention_mask"][i].bool()
        assert batch["input_ids"][i][kept].tolist() == row["input_ids"]
        assert batch["labels"][i][kept].tolist() == row["labels"]
        assert set(batch["labels"][i][~kept].tolist()) <= {-100}
        assert kept[-1 if left else 0]


# --- errors ------------------------------------------------------------------------------------

@pytest.mark.parametrize("prompt", ["<image><image><image>Go", "<image><image>", "Go"])
def test_a_sample_that_fails_is_named_and_not_replaced(processor, samples, prompt):
    samples[1] = Sample(samples[0].images, prompt, "Yes.", "select")
    with pytest.raises(ValueError, match="sample 1 of the batch: the prompt"):
        batch_of(samples, processor)


def test_too_long_a_sample_is_named(make_processor, samples):
    longest = batch_of(samples, make_processor())["input_ids"].shape[1]
    with pytest.raises(ValueError, match=f"sample 2 of the batch: the sample is {longest} tokens"):
        batch_of(samples, make_processor(max_length=longest - 1))


def test_an_empty_batch_is_refused(processor):
    with pytest.raises(ValueError, match="empty batch"):
        batch_of([], processor)


# --- the naive way -----------------------------------------------------------------------------

def answer_logits(model, batch, row):
    answered = batch["labels"][row, 1:] != -100
    logits = model(**{k: v for k, v in batch.items() if k != "labels"}).logits
    return logits[row, :-1][answered]


def test_zero_images_leak_into_the_answers_and_no_images_do_not(model, processor, make_sample):
    """A trap: padded with images, a short sample's answer depends on its neighbours."""
    short, long = make_sample(1, seed=1), make_sample(3, seed=2)
    alone = answer_logits(model, batch_of([short], processor), 0)
    flat = answer_logits(model, batch_of([short, long], processor), 0)
    padded_batch = batch_of(fill_with_black_images([short, long], 3), processor)
    padded = answer_logits(model, padded_batch, 0)
    assert torch.allclose(flat, alone, atol=1e-5, rtol=1e-4)
    assert (padded - alone).abs().max() > 0.1
    assert len(padded_batch["pixel_values"]) == 6
    placeholders = padded_batch["input_ids"][0] == processor.image_token_id
    assert placeholders.sum() == 3 * TOKENS
    assert padded_batch["attention_mask"][0][placeholders].all()


def test_the_naive_way_has_a_limit(processor, make_sample):
    with pytest.raises(ValueError, match="3 images, more than 2"):
        fill_with_black_images([make_sample(3)], num_images=2)


# --- batches of similar length -----------------------------------------------------------------

@given(st.lists(st.integers(1, 99), max_size=80), st.integers(1, 7), st.integers(0, 3),
       st.integers(1, 4))
def test_an_epoch_takes_every_sample_at_most_once(lengths, batch_size, seed, window):
    if len(lengths) < batch_size:
        return
    sampler = LengthGroupedSampler(lengths, batch_size, seed, window)
    again = LengthGroupedSampler(lengths, batch_size, seed, window)
    for _ in range(2):
        batches = list(sampler)
        taken = [i for batch in batches for i in batch]
        assert len(taken) == len(set(taken)) == len(lengths) // batch_size * batch_size
        assert set(taken) <= set(range(len(lengths)))
        assert len(batches) == len(sampler) and {len(b) for b in batches} <= {batch_size}
        assert batches == list(again)


def test_each_epoch_and_each_seed_has_an_order_of_its_own():
    lengths = np.arange(200) % 17
    sampler = LengthGroupedSampler(lengths, 8, seed=0)
    epochs = [list(sampler), list(sampler), list(LengthGroupedSampler(lengths, 8, seed=1))]
    assert epochs[0] != epochs[1] and epochs[0] != epochs[2]
    assert {frozenset(b) for b in epochs[0]} != {frozenset(b) for b in epochs[1]}


def test_grouping_saves_padding():
    rng = np.random.default_rng(0)
    lengths = rng.integers(10, 100, 512)

    def padding(batches):
        return sum(lengths[b].max() * len(b) - lengths[b].sum() for b in batches)

    by_chance = rng.permutation(512).reshape(-1, 16).tolist()
    assert padding(LengthGroupedSampler(lengths, 16)) < 0.3 * padding(by_chance)


def test_a_plain_loader_takes_the_collator(earth_table, processor):
    dataset = EncodedSamples(build_tasks(earth_table, {"select 2": 5}, seed=0), processor)
    loader = DataLoader(dataset, batch_size=2,
                        collate_fn=partial(collate, pad_token_id=processor.pad_token_id))
    batches = list(loader)
    assert [len(b["input_ids"]) for b in batches] == [2, 2, 1]
    assert [len(b["pixel_values"]) for b in batches] == [4, 4, 2]


def test_samples_without_images_alone_and_among_others(processor, make_sample):
    text = Sample([], "Is a lake wet?", "Yes.", "ask")
    alone = batch_of([text, text], processor)
    assert "pixel_values" not in alone and len(alone["input_ids"]) == 2
    mixed = batch_of([text, make_sample(2), text], processor)
    assert len(mixed["pixel_values"]) == 2
    placeholders = (mixed["input_ids"] == processor.image_token_id).sum(1)
    assert placeholders.tolist() == [0, 2 * TOKENS, 0]


@pytest.mark.parametrize("batch_size, window, message", [
    (0, 2, "at least 1, not 0 and 2"), (2, -1, "at least 1, not 2 and -1"),
    (4, 2, "3 samples do not fill one batch of 4")])
def test_batches_that_cannot_be_made_are_refused(batch_size, window, message):
    with pytest.raises(ValueError, match=message):
        LengthGroupedSampler([1, 2, 3], batch_size, window=window)
