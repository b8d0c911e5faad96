"""The model: image embeddings enter at placeholders, and nothing else about it is surprising."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from small_models import TOKENS, batch_of
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM, LlamaConfig, ViTConfig

from vlm_utils.architecture import (
    MultiImageVLM,
    MultiImageVLMConfig,
    Projector,
    count_parameters,
    merge_image_embeddings,
    merge_neighbours,
)

PLACEHOLDER, TEXT = 7, 1
CLOSE = {"atol": 1e-5, "rtol": 1e-4}


@pytest.fixture
def batch(processor, make_sample):
    """A training batch of samples with 2, 1 and 3 images."""
    return batch_of(
        [make_sample(2, seed=1), make_sample(1, "Describe the image.", seed=2),
         make_sample(3, answer="The lake in the top left grew.", seed=3)], processor)


def full_logits(model, batch):
    inputs = {name: value for name, value in batch.items() if name != "labels"}
    return model(**inputs).logits


# --- merging neighbours ------------------------------------------------------------------------

@given(images=st.integers(1, 3), blocks=st.integers(1, 3), factor=st.integers(1, 3),
       dim=st.integers(1, 4))
def test_merge_neighbours_equals_a_plain_loop(images, blocks, factor, dim):
    side = blocks * factor
    features = torch.arange(images * side * side * dim).view(images, side * side, dim)
    merged = merge_neighbours(features, factor)
    assert merged.shape == (images, blocks ** 2, dim * factor ** 2)
    for n in range(images):
        for row in range(blocks):
            for column in range(blocks):
                square = [features[n, (row * factor + a) * side + column * factor + b]
                          for a in range(factor) for b in range(factor)]
                assert torch.equal(merged[n, row * blocks + column], torch.cat(square))


@pytest.mark.parametrize(("patches", "factor"), [(12, 1), (9, 2), (16, 3)])
def test_merge_neighbours_refuses_what_does_not_divide(patches, factor):
    with pytest.raises(ValueError, match=f"{patches} patches .* {factor} x {factor}"):
        merge_neighbours(torch.zeros(1, patches, 4), factor)


@pytest.mark.parametrize(("factor", "tokens"), [(1, 16), (2, 4), (4, 1)])
def test_projector_goes_from_patches_to_tokens(factor, tokens):
    projector = Projector(vision_dim=6, text_dim=10, merge_factor=factor)
    assert projector(torch.randn(3, 16, 6)).shape == (3, tokens, 10)


def test_image_tokens_start_at_the_scale_of_words():
    torch.manual_seed(0)
    projector = Projector(8, 64, 1)
    words = 0.02 * torch.randn(100, 64)
    projector.match_scale(words)
    size = projector(torch.randn(4, 16, 8)).std().item()
    assert size == pytest.approx(words.std().item(), rel=0.05)


# --- image embeddings at placeholders ----------------------------------------------------------

@st.composite
def placed_images(draw):
    """Token ids of a batch, its number of images and of tokens an image.

    Images of a sample may stand side by side, with no text between their placeholders.
    """
    tokens = draw(st.integers(1, 4))
    counts = draw(st.lists(st.integers(0, 3), min_size=1, max_size=4).filter(any))
    rows = []
    for count in counts:
        row = [TEXT] * draw(st.integers(0, 2))
        for _ in range(count):
            row += [PLACEHOLDER] * tokens + [TEXT] * draw(st.integers(0, 2))
        rows.append(row)
    longest = max(map(len, rows))
    ids = torch.tensor([row + [TEXT] * (longest - len(row)) for row in rows])
    return ids, sum(counts), tokens


@given(placed_images())
def test_merge_image_embeddings_equals_a_plain_loop(case):
    ids, num_images, tokens = case
    texts = torch.randn(*ids.shape, 5)
    images = torch.randn(num_images, tokens, 5)
    expected, seen = texts.clone(), 0
    for b in range(ids.shape[0]):
        for t in range(ids.shape[1]):
            if ids[b, t] == PLACEHOLDER:
                expected[b, t] = images[seen // tokens, seen % tokens]
                seen += 1
    assert torch.equal(merge_image_embeddings(texts, images, ids, PLACEHOLDER), expected)


@pytest.mark.parametrize(("placeholders", "images", "says"), [
    ([2, 4], 2, "sample 1 asks for 2 images and only 1 are left for it; the prompts hold 6 "
                "placeholder tokens = 2 x 3 images, but 2 images were given"),
    ([2, 4], 5, r"after the last sample \(1\) 2 images are left over; .* 2 x 3 images, but 5"),
    ([2, 3], 2, "sample 1 holds 3 placeholder tokens, which is not a multiple of the 2 .*"
                "but 2 images"),
])
def test_a_mismatch_names_the_sample_and_both_counts(placeholders, images, says):
    ids = torch.full((len(placeholders), 6), TEXT)
    for row, count in zip(ids, placeholders, strict=True):
        row[:count] = PLACEHOLDER
    with pytest.raises(ValueError, match=says):
        merge_image_embeddings(torch.zeros(2, 6, 3), torch.zeros(images, 2, 3), ids, PLACEHOLDER)


def test_placeholders_without_any_image_are_an_error(model, batch):
    del batch["pixel_values"]
    with pytest.raises(ValueError, match=f"sample 0 asks for 2 images .*{6 * TOKENS} placeholder "
                                         f"tokens = {TOKENS} x 6 images, but 0 images"):
        model(**batch)


def test_pixels_and_features_together_are_an_error(model, batch):
    with pytest.raises(ValueError, match="not both"):
        model(**batch, image_features=torch.zeros(6, 16, 32))


def test_text_without_images_is_read(model):
    ids = torch.tensor([[1, 5, 6]])
    expected = model.language_model(input_ids=ids).logits
    assert torch.allclose(model(input_ids=ids).logits, expected, **CLOSE)


# --- loss --------------------------------------------------------------------------------------

def test_labels_are_shifted_exactly_once(model, batch):
    """A trap: shifted here and again in the loss, the model would learn the token after next."""
    logits, labels = full_logits(model, batch), batch["labels"]

    def shifted_loss(shift):
        return cross_entropy(logits[:, :-shift].flatten(0, 1), labels[:, shift:].flatten(),
                             ignore_index=-100)

    loss = model(**batch).loss
    assert loss.item() == pytest.approx(shifted_loss(1).item(), rel=1e-5)
    assert loss.item() != pytest.approx(shifted_loss(2).item(), rel=1e-2)


def test_logits_in_training_are_those_of_the_answers_and_in_evaluation_all(model, batch):
    """Training saves what its loss does not read; metrics need logits beside their labels."""
    answered = batch["labels"][:, 1:] != -100
    every = full_logits(model, batch)
    evaluated = model(**batch)
    assert evaluated.logits.shape[:2] == batch["labels"].shape
    assert torch.allclose(evaluated.logits, every, **CLOSE)
    model.train()
    trained = model(**batch)
    assert trained.logits.shape == (int(answered.sum()), model.config.text_config.vocab_size)
    assert torch.allclose(trained.logits, every[:, :-1][answered], **CLOSE)
    assert torch.allclose(trained.loss, evaluated.loss, **CLOSE)


def test_accumulated_gradients_equal_those_of_one_batch(make_model, processor, make_sample):
    """The answers differ in length: a mean of means would weigh their tokens differently."""
    samples = [make_sample(1, answer="No."), make_sample(2, answer="The lake grew. " * 5, seed=1)]
    whole, parts = make_model(), make_model()
    whole(**batch_of(samples, processor)).loss.backward()
    batches = [batch_of([sample], processor) for sample in samples]
    count = sum((b["labels"][:, 1:] != -100).sum() for b in batches)
    for b in batches:
        parts(**b, num_items_in_batch=count).loss.backward()
    for (name, a), b in zip(whole.named_parameters(), parts.parameters(), strict=True):
        assert (a.grad is None) == (b.grad is None), name
        if a.grad is not None:
            assert torch.allclose(a.grad, b.grad, atol=1e-5, rtol=1e-3), name


def test_weights_say_what_each_label_counts(make_model, processor, make_sample):
    samples = [make_sample(1, answer="No."), make_sample(2, answer="The lake grew. " * 5, seed=1)]
    batch = batch_of(samples, processor)
    model = make_model()
    ones = torch.ones(batch["labels"].shape)
    weighted = model(**batch, loss_weights=ones).loss.item()
    assert weighted == pytest.approx(model(**batch).loss.item())
    only_first = ones * torch.tensor([[1.0], [0.0]])
    alone = model(**batch_of(samples[:1], processor)).loss.item()
    assert model(**batch, loss_weights=only_first).loss.item() == pytest.approx(alone, abs=1e-5)


def test_a_frozen_encoder_gets_no_gradient_and_the_rest_does(make_model, batch):
    model = make_model()
    model(**batch).loss.backward()
    assert all(p.grad is None for p in model.vision_encoder.parameters())
    assert all(p.grad is not None for p in model.projector.parameters())
    assert all(p.grad is not None for p in model.language_model.parameters())
    unfrozen = make_model(frozen=False)
    unfrozen(**batch).loss.backward()
    assert unfrozen.vision_encoder.embeddings.position_embeddings.grad.abs().sum() > 0


# --- images ------------------------------------------------------------------------------------

def test_encoded_images_stand_in_for_pixels(model, batch):
    expected = full_logits(model, batch)
    features = model.encode_images(batch.pop("pixel_values"))
    assert features.shape == (6, model.config.patches_per_image, 32)
    assert torch.allclose(full_logits(model, batch | {"image_features": features}), expected,
                          **CLOSE)


def test_the_class_token_is_left_out_and_the_patches_stay_in_order(model, batch):
    pixels = batch["pixel_values"]
    states = model.vision_encoder(pixel_values=pixels).last_hidden_state
    assert torch.allclose(model.encode_images(pixels), states[:, 1:], **CLOSE)
    assert states.shape[1] == model.config.patches_per_image + 1


def test_the_images_matter(model, batch):
    """Without this, every test that compares logits could pass with images left out."""
    other = batch | {"pixel_values": batch["pixel_values"].flip(0)}
    assert not torch.allclose(full_logits(model, batch), full_logits(model, other), atol=1e-2)


def test_a_batch_of_unequal_samples_gives_what_each_gives_alone(model, processor, make_sample):
    samples = [make_sample(n, seed=n) for n in (3, 1, 2)]
    together = full_logits(model, batch_of(samples, processor))
    for row, sample in zip(together, samples, strict=True):
        alone = full_logits(model, batch_of([sample], processor))[0]
        assert torch.allclose(row[:len(alone)], alone, **CLOSE)


# --- generation --------------------------------------------------------------------------------

def answers(model, processor, samples, **options):
    batch = batch_of(samples, processor, for_generation=True)
    return model.generate(**batch, max_new_tokens=8, min_new_tokens=8, do_sample=False,
                          pad_token_id=processor.pad_token_id, **options).tolist()


def test_batched_generation_equals_one_at_a_time(model, processor, make_sample):
    samples = [make_sample(n, seed=n) for n in (3, 1, 2)]
    alone = [answers(model, processor, [sample])[0] for sample in samples]
    assert answers(model, processor, samples) == alone
    assert len({tuple(a) for a in alone}) > 1


def test_the_cache_changes_no_token(model, processor, make_sample):
    samples = [make_sample(2), make_sample(1, seed=1)]
    assert answers(model, processor, samples, use_cache=True) == \
        answers(model, processor, samples, use_cache=False)


def test_right_padding_is_refused_in_generation(model, batch):
    del batch["labels"]
    with pytest.raises(ValueError, match="padded on the left: sample 0 ends with padding"):
        model.generate(**batch)


def test_sampling_and_beams_come_with_generate(model, processor, make_sample):
    batch = batch_of([make_sample(2)], processor, for_generation=True)
    options = {"max_new_tokens": 6, "min_new_tokens": 6, "pad_token_id": processor.pad_token_id}
    torch.manual_seed(0)
    drawn = {tuple(model.generate(**batch, do_sample=True, temperature=5.0, **options)[0].tolist())
             for _ in range(5)}
    assert len(drawn) > 1
    assert model.generate(**batch, num_beams=3, do_sample=False, **options).shape == (1, 6)


# --- files -------------------------------------------------------------------------------------

@pytest.fixture
def saved(model, tmp_path):
    model.save_pretrained(tmp_path)
    return tmp_path


def test_a_saved_model_gives_identical_logits(model, saved, batch):
    again = MultiImageVLM.from_pretrained(saved).eval()
    assert torch.equal(full_logits(again, batch), full_logits(model, batch))
    assert again.config.tokens_per_image == TOKENS
    assert again.config.image_token_id == model.config.image_token_id


def test_tied_weights_are_saved_once_and_stay_tied(saved):
    assert not list(saved.glob("*.bin"))
    with safe_open(saved / "model.safetensors", "pt") as file:
        names = set(file.keys())
    tied = {"language_model.lm_head.weight", "language_model.model.embed_tokens.weight"}
    assert len(names & tied) == 1
    language_model = MultiImageVLM.from_pretrained(saved).language_model
    assert language_model.lm_head.weight is language_model.model.embed_tokens.weight


def test_no_pooler_weights(model, saved):
    assert not [n for n, _ in model.named_parameters() if "pooler" in n]
    with safe_open(saved / "model.safetensors", "pt") as file:
        assert not [n for n in file.keys() if "pooler" in n]


def test_new_tokens_resize_the_whole_model(model, tmp_path):
    before = model.config.text_config.vocab_size
    model.resize_token_embeddings(before + 3)
    model.save_pretrained(tmp_path)
    again = MultiImageVLM.from_pretrained(tmp_path)
    assert again.config.text_config.vocab_size == before + 3
    assert again.get_output_embeddings().weight.shape[0] == before + 3


def test_gradient_checkpointing_changes_no_loss_and_no_gradient(make_model, batch):
    plain, saving = make_model().train(), make_model().train()
    saving.gradient_checkpointing_enable()
    passes = []
    saving.language_model.model.layers[0].mlp.register_forward_pre_hook(
        lambda *_: passes.append(1))
    losses = [m(**batch, use_cache=False).loss for m in (plain, saving)]
    assert losses[0].item() == pytest.approx(losses[1].item(), rel=1e-6)
    for loss in losses:
        loss.backward()
    assert len(passes) == 2  # computed again on the way back, which is what saves the memory
    grads = [m.projector.layers[0].weight.grad for m in (plain, saving)]
    assert torch.allclose(*grads, **CLOSE)


def test_peft_wraps_and_trains_a_step(model, batch):
    from peft import LoraConfig, get_peft_model
    before = copy.deepcopy(model.state_dict())
    wrapped = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj", "v_proj"]))
    trained = {n: p for n, p in wrapped.named_parameters() if p.requires_grad}
    assert trained and all("lora_" in name for name in trained)
    optimizer = torch.optim.SGD(trained.values(), lr=0.1)
    losses = []
    for _ in range(3):
        loss = wrapped(**batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    kept = model.projector.layers[0].weight
    assert torch.equal(kept, before["projector.layers.0.weight"])


# --- parameters --------------------------------------------------------------------------------

def test_parameter_count_at_real_size():
    """ViT-B/16 without pooler, projector 768 -> 576 -> 576, SmolLM-135M's shape."""
    text = LlamaConfig(
        hidden_size=576, num_hidden_layers=30, num_attention_heads=9, num_key_value_heads=3,
        intermediate_size=1536, vocab_size=49_152, tie_word_embeddings=True,
        max_position_embeddings=2048)
    with torch.device("meta"):
        model = MultiImageVLM(MultiImageVLMConfig(ViTConfig(), text, merge_factor=1))
    counts = count_parameters(model.freeze_vision_encoder())
    assert counts["whole model"]["trainable"] == 135_291_456
    assert counts["vision_encoder"]["trainable"] == 0
    assert counts["language_model"]["parameters"] == 134_515_008
    assert sum(counts[part]["parameters"] for part in (
        "vision_encoder", "projector", "language_model")) == counts["whole model"]["parameters"]


@settings(max_examples=20)
@given(side=st.integers(1, 6), factor=st.integers(1, 3))
def test_config_counts_tokens_as_the_projector_makes_them(side, factor):
    vision = ViTConfig(image_size=16 * side * factor, patch_size=16)
    config = MultiImageVLMConfig(vision, LlamaConfig(), merge_factor=factor)
    made = merge_neighbours(torch.zeros(1, config.patches_per_image, 1), factor)
    assert made.shape[1] == config.tokens_per_image == side ** 2


def test_the_config_is_read_back_from_json(tmp_path):
    config = MultiImageVLMConfig(
        ViTConfig(hidden_size=24, num_attention_heads=4),
        LlamaConfig(hidden_size=48, num_attention_heads=4),
        image_token_id=3, merge_factor=4, max_images=5)
    config.save_pretrained(tmp_path)
    again = MultiImageVLMConfig.from_pretrained(tmp_path)
    assert (again.vision_config.hidden_size, again.text_config.hidden_size) == (24, 48)
    assert (again.image_token_id, again.merge_factor, again.max_images) == (3, 4, 5)


def test_the_language_model_alone_reads_the_text_half(model, tmp_path):
    """The parts stay models of their own: the language model can be saved and used by itself."""
    model.language_model.save_pretrained(tmp_path)
    alone = AutoModelForCausalLM.from_pretrained(tmp_path)
    ids = torch.tensor([[1, 5, 6]])
    assert torch.allclose(alone(input_ids=ids).logits, model(input_ids=ids).logits, **CLOSE)
