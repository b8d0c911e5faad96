"""Many questions about the same images: answers as one by one, and nothing computed twice."""

import pytest
import torch
from small_models import beside_sequence, small_base
from transformers import LogitsProcessor

from vlm_utils.answering import answer_sample
from vlm_utils.architecture import MultiImageVLM
from vlm_utils.cross_attention import AskedImages, ask, asking
from vlm_utils.datasets import Sample

# They share a beginning, or none; images stand in front, in the middle, at the end, or unnamed.
QUESTIONS = [
    "What changed?", "What changed over time?", "Is there a road?",
    "<image><image>Is there a lake?", "Look <image> and then <image> What changed?",
    "Look <image> and then <image> What changed over time?", "Look <image> at both <image>",
    "What changed?<image><image>", "What changed?<image><image> Describe the image.",
    "What changed?"]
LONG = {"max_new_tokens": 6, "min_new_tokens": 6}
DESIGNS = {"in the sequence": None, "beside": {}, "immediate": {"image_mask": "immediate"},
           "latents": {"latents": 3}}


@pytest.fixture(params=DESIGNS)
def design(request, processor):
    """Model and processor of each design."""
    changes = DESIGNS[request.param]
    if changes is None:
        return small_base(processor), processor
    return beside_sequence(processor, **changes)


@pytest.fixture
def images(picture):
    return [picture(1), picture(2)]


def alone(design, images, question, **generation) -> str:
    if "<image>" not in question:
        question = "<image>" * len(images) + question
    return answer_sample(*design, Sample(images, question, None, "any"), **LONG | generation)


def is_beside(model) -> bool:
    return hasattr(model, "keys_values")


@pytest.mark.parametrize("generation", [
    {}, {"num_beams": 3}, {"repetition_penalty": 5.0}, {"no_repeat_ngram_size": 1}],
    ids=["greedy", "beams", "penalty", "no repeats"])
def test_answers_are_those_of_asking_one_by_one(design, images, generation):
    """A trap: a penalty for repeating must count new tokens only, as it does for one alone."""
    expected = [alone(design, images, question, **generation) for question in QUESTIONS]
    assert ask(*design, images, QUESTIONS, **LONG | generation) == expected
    assert len(set(expected)) > 4


def test_a_penalty_that_the_model_asks_for_itself(design, images):
    """A trap: in a batch, padding in front makes it forget as many new tokens."""
    design[0].generation_config.repetition_penalty = 5.0
    expected = [alone(design, images, question) for question in QUESTIONS]
    assert ask(*design, images, QUESTIONS, **LONG) == expected


def test_questions_beside_the_images_are_answered_together_from_one_copy_of_them(
        design, images, monkeypatch):
    """More questions than fit into one batch; each batch reads the keys and values as they lie."""
    model, processor = design
    monkeypatch.setattr("vlm_utils.cross_attention.asking.AT_ONCE", 4)
    asked = AskedImages(model, processor, images)
    read, generate = [], model.generate
    model.generate = lambda input_ids, **given: read.append(
        (len(input_ids), given["image_keys_values"].untyped_storage().data_ptr())) or generate(
            input_ids, **given)
    answers = asked.answers(QUESTIONS, **LONG)
    del model.generate
    assert answers == [alone(design, images, question) for question in QUESTIONS]
    if is_beside(model):
        kept = asked.kept.keys_values
        assert read == [(rows, kept.untyped_storage().data_ptr()) for rows in (4, 4, 2)]
        assert kept.untyped_storage().nbytes() == kept.nbytes == asked.kept.num_bytes


# --- together, after one beginning ------------------------------------------------------------

FRONT = ["What changed?", "What changed over time?", "Is there a road?", "Describe the image.",
         "Is there a lake in the top left?"]


@pytest.fixture
def in_sequence(processor):
    return small_base(processor), processor


def calls_of(model, monkeypatch) -> list[dict]:
    """What the language model's body is called with from now on."""
    calls, forward = [], model.language_model.model.forward
    monkeypatch.setattr(model.language_model.model, "forward",
                        lambda **given: calls.append(given) or forward(**given))
    return calls


def test_questions_in_the_sequence_are_answered_together_from_one_cache(
        in_sequence, images, monkeypatch):
    """The beginning is read once and kept once, and every step is one call for all of them."""
    model, processor = in_sequence
    expected = [alone(in_sequence, images, question) for question in FRONT]
    asked = AskedImages(model, processor, images)
    calls, storages, update = calls_of(model, monkeypatch), [], asking.AfterShared.update

    def looked_at(layer, *given, **named):
        storages.append(layer.beginning.keys.untyped_storage().data_ptr())
        return update(layer, *given, **named)

    monkeypatch.setattr(asking.AfterShared, "update", looked_at)
    assert asked.answers(FRONT, **LONG) == expected
    assert len(set(expected)) == len(FRONT)
    prompts = [processor.encode_prompt("<image><image>" + question, 2) for question in FRONT]
    shared = min(asking.shared_beginning(prompts[0], ids) for ids in prompts[1:])
    read = [(given["inputs_embeds"] if given.get("input_ids") is None
             else given["input_ids"]).shape[:2] for given in calls]
    longest = max(len(ids) for ids in prompts) - shared
    assert read == [(1, shared), (len(FRONT), longest)] + [(len(FRONT), 1)] * 5
    kept = [layer.keys.untyped_storage().data_ptr() for layer in asked.kept.cache.layers]
    assert storages == kept * LONG["max_new_tokens"]
    # Of the questions and their answers nothing is kept.
    assert asked.kept.ids == prompts[0][:shared]
    assert asked.kept.num_bytes == shared * 2 * 2 * 16 * 4  # layers, keys and values, 4 bytes
    assert asked.answer(FRONT[1], **LONG) == expected[1]


def test_answers_together_end_at_different_places(in_sequence, images):
    """A trap: one that has ended must not take the others with it, and is not read any more."""
    model, processor = in_sequence
    new = [processor.tokenizer.encode(alone(in_sequence, images, question)) for question in FRONT]
    ends = sorted({tokens[k] for k, tokens in enumerate(new) if k < len(tokens)})
    for eos in (ends, ends[0], None):
        settings = {"max_new_tokens": 6, "eos_token_id": eos}
        expected = [answer_sample(model, processor, Sample(
            images, "<image><image>" + question, None, "any"), **settings) for question in FRONT]
        assert ask(model, processor, images, FRONT, **settings) == expected
    assert len({len(answer) for answer in expected}) > 1
    least = {"max_new_tokens": 6, "min_new_tokens": 3, "eos_token_id": ends}
    assert ask(model, processor, images, FRONT, **least) == [
        alone(in_sequence, images, question, **least) for question in FRONT]


@pytest.mark.parametrize("changes", [
    {"no_repeat_ngram_size": 1}, {"suppress_tokens": [3, 4, 5]}, {"min_new_tokens": 4}], ids=str)
def test_what_the_model_asks_for_itself_counts_for_many_questions(design, images, changes):
    """A trap: a loop of one's own that takes the largest logit would not know of it."""
    for name, value in changes.items():
        setattr(design[0].generation_config, name, value)
    expected = [alone(design, images, question, max_new_tokens=8) for question in FRONT]
    assert ask(*design, images, FRONT, **LONG | {"max_new_tokens": 8}) == expected


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_together_with_each_kind_of_attention(in_sequence, images, monkeypatch, attention):
    model, processor = in_sequence
    model.language_model.set_attn_implementation(attention)
    expected = [alone(in_sequence, images, question) for question in FRONT]
    calls = calls_of(model, monkeypatch)
    assert ask(model, processor, images, FRONT, **LONG) == expected
    assert len(calls) == 7


def test_after_questions_interrupted_together_the_next_are_answered_rightly(
        in_sequence, images, monkeypatch):
    """A trap: the cache then holds what was read of them."""
    expected = [alone(in_sequence, images, question) for question in FRONT]
    asked, update = AskedImages(*in_sequence, images), asking.AfterShared.update

    def interrupted(layer, keys, values, *given, **named):
        if layer.get_seq_length() > layer.beginning.get_seq_length() + 20:
            raise KeyboardInterrupt
        return update(layer, keys, values, *given, **named)

    with monkeypatch.context() as changed:
        changed.setattr(asking.AfterShared, "update", interrupted)
        with pytest.raises(KeyboardInterrupt):
            asked.answers(FRONT, max_new_tokens=60, min_new_tokens=60)
    assert asked.kept.cache.get_seq_length() == len(asked.kept.ids)
    assert asked.answers(FRONT, **LONG) == expected
    assert [asked.answer(question, **LONG) for question in FRONT] == expected


# -----------------------------------------------------------------------------------------------

def test_beams_that_the_model_asks_for_itself(design, images):
    design[0].generation_config.num_beams = 3
    expected = [alone(design, images, question) for question in QUESTIONS[:5]]
    assert ask(*design, images, QUESTIONS[:5], **LONG) == expected


def test_sampling_with_a_seed_gives_what_it_gives_alone(design, images):
    asked = AskedImages(*design, images)
    settings = {"do_sample": True, "temperature": 3.0}
    for seed, question in enumerate(QUESTIONS):
        torch.manual_seed(seed)
        expected = alone(design, images, question, **settings)
        torch.manual_seed(seed)
        assert asked.answer(question, **LONG | settings) == expected


def test_images_are_encoded_once(design, images, monkeypatch):
    encoded, encode = [], MultiImageVLM.encode_images
    monkeypatch.setattr(MultiImageVLM, "encode_images", lambda self, pixels: encoded.append(
        len(pixels)) or encode(self, pixels))
    projected = []
    design[0].projector.register_forward_pre_hook(lambda _, given: projected.append(len(given[0])))
    ask(*design, images, QUESTIONS[:3], **LONG)
    assert encoded == [2] and projected == [2]


def test_the_images_cache_is_not_copied_for_each_question(design, images):
    model, processor = design
    asked = AskedImages(model, processor, images)
    asked.answer(QUESTIONS[0], **LONG)
    read, forward = [], model.language_model.model.forward

    def look(**given):
        if is_beside(model):
            read.append((given["image_keys_values"].data_ptr(), None))
        else:
            ids, embeds = given.get("input_ids"), given.get("inputs_embeds")
            now = embeds if ids is None else ids
            read.append((id(given["past_key_values"]), now.shape[1]))
        return forward(**given)

    kept = asked.kept.keys_values.data_ptr() if is_beside(model) else id(asked.kept.cache)
    sizes = []
    model.language_model.model.forward = look
    try:
        for question in QUESTIONS[1:3]:
            asked.answer(question, **LONG)
            sizes.append(asked.kept.num_bytes)
    finally:
        del model.language_model.model.forward
    assert len(read) == 12 and {cache for cache, _ in read} == {kept}
    if is_beside(model):
        assert sizes == [asked.kept.keys_values.nbytes] * 2
    else:       # of the prompt no image is read again, and of the answer nothing is kept
        of_images = len(processor.encode_prompt("<image><image>x", 2)) - 2
        assert all(length < of_images for _, length in read)
        lengths = [len(processor.encode_prompt("<image><image>" + question, 2))
                   for question in QUESTIONS[1:3]]
        bytes_of_one = sizes[0] / lengths[0]
        assert sizes == [bytes_of_one * length for length in lengths]
        assert bytes_of_one == 2 * 2 * 16 * 4       # layers, keys and values, numbers of 4 bytes


class Interrupt(LogitsProcessor):
    """The stop button, pressed while the second token is made."""

    def __init__(self, error: type[BaseException]):
        self.calls, self.error = 0, error

    def __call__(self, input_ids, scores):
        self.calls += 1
        if self.calls == 2:
            raise self.error
        return scores


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_after_an_interrupted_question_the_next_is_answered_rightly(design, images, error):
    """A trap: the cache then holds another prompt than the last one that was answered."""
    asked = AskedImages(*design, images)
    for broken in QUESTIONS[1:]:
        asked.answer(QUESTIONS[0], **LONG)
        with pytest.raises(error):
            asked.answer(broken, logits_processor=[Interrupt(error)], **LONG)
        for question in (QUESTIONS[0], QUESTIONS[1]):
            assert asked.answer(question, **LONG) == alone(design, images, question)


@pytest.mark.parametrize(("question", "says"), [
    ("<image>What changed?", "has 1 <image> placeholders and 2 images were given"),
    ("Where is <image_3>?", "names <image_3> and 2 images were given"),
    ("", "the prompt is empty"), ("very " * 600, "more than the 512 the model can hold"),
    ("half a letter \ud800", "holds half of a character")])
def test_a_question_that_does_not_fit_is_named(design, images, question, says):
    with pytest.raises(ValueError, match=f"^question 2, .*{says}"):
        ask(*design, images, ["What changed?", question, "Is there a road?"], **LONG)
    asked = AskedImages(*design, images)
    first = asked.answer("What changed?", **LONG)
    with pytest.raises(ValueError, match=says):
        asked.answer(question, **LONG)
    assert asked.answer("What changed?", **LONG) == first == alone(design, images, "What changed?")


def test_the_processor_of_the_other_design_is_refused(processor, images):
    """A trap: with four placeholders an image, text would see images that it comes before."""
    beside, one_each = beside_sequence(processor)
    for model, other in ((beside, processor), (small_base(processor), one_each)):
        with pytest.raises(ValueError, match="the prompts hold [28] placeholder tokens"):
            ask(model, other, images, ["What changed?"])


def test_without_images_and_without_questions(design):
    questions = ["Is there a road?", "Is there a lake?", "What changed?"]
    expected = [alone(design, [], question) for question in questions]
    assert ask(*design, [], questions, **LONG) == expected
    asked = AskedImages(*design, [])
    assert asked.kept.num_bytes == 0
    with pytest.raises(ValueError, match="1 <image> placeholders and 0 images"):
        asked.answer("<image>What changed?")
    assert ask(*design, [], []) == []


def test_a_model_in_training_is_asked_without_dropout(design, images):
    asked = AskedImages(*design, images)
    expected = asked.answer("What changed?", **LONG)
    design[0].train()
    assert asked.answer("What changed?", **LONG) == expected and not design[0].training
