"""The processor: where placeholders and identifiers go, and what is refused."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from small_models import TEXTS, TOKENS, plain_tokenizer

from vlm_utils.architecture import IMAGE_TOKEN, MultiImageProcessor, add_special_tokens, as_text

I = IMAGE_TOKEN  # noqa: E741
PROMPT = f"See {I} and {I}: what changed?"


# --- layout ------------------------------------------------------------------------------------

@pytest.mark.parametrize(("layout", "identifiers", "expected"), [
    ("interleaved", "after", f"See {I}{I}<image_1> and {I}{I}<image_2>: what changed?"),
    ("interleaved", "before", f"See <image_1>{I}{I} and <image_2>{I}{I}: what changed?"),
    ("interleaved", "none", f"See {I}{I} and {I}{I}: what changed?"),
    ("prepended", "after", f"{I}{I}<image_1>{I}{I}<image_2>See  and : what changed?"),
    ("prepended", "before", f"<image_1>{I}{I}<image_2>{I}{I}See  and : what changed?"),
    ("prepended", "none", f"{I}{I}{I}{I}See  and : what changed?"),
])
def test_layouts(make_processor, layout, identifiers, expected):
    processor = make_processor(layout=layout, identifiers=identifiers, tokens_per_image=2)
    assert processor.lay_out(PROMPT, 2) == expected


def test_the_layout_of_teochat_is_the_default(processor):
    block = I * TOKENS
    assert processor.lay_out(f"{I}{I}What changed?", 2) == \
        f"{block}<image_1>{block}<image_2>What changed?"


def test_the_text_may_name_an_image(processor):
    assert processor.lay_out(f"{I}{I}Describe <image_2>.", 2).endswith("Describe <image_2>.")


@pytest.mark.parametrize(("prompt", "num_images", "says"), [
    ("", 0, "prompt is empty"),
    (f"{I} \n", 1, "prompt is empty"),
    (f"{I}{I}{I}What changed?", 2, "3 <image> placeholders and 2 images were given"),
    ("What changed?", 2, "0 <image> placeholders and 2 images were given"),
    (I * 9 + "What changed?", 9, "9 images were given and the model has names for 8"),
    (f"{I}{I}Describe <image_3>.", 2, "names <image_3> and 2 images were given"),
    (f"{I}Describe <image_9>.", 1, "names <image_9> and 1 images were given"),
    (f"{I}Describe <image_0>.", 1, "names <image_0> and 1 images were given"),
    (f"{I}{I}Describe <image_12>.", 2, "names <image_12> and 2 images were given"),
])
def test_a_prompt_that_does_not_fit_its_images_is_refused(processor, prompt, num_images, says):
    with pytest.raises(ValueError, match=says):
        processor.lay_out(prompt, num_images)


@pytest.mark.parametrize("settings", [
    {"layout": "appended"}, {"identifiers": "everywhere"}])
def test_an_unknown_layout_is_refused_and_the_known_ones_named(make_processor, settings):
    (name, value), = settings.items()
    with pytest.raises(ValueError, match=f"{name} is one of .*(prepended|none).*, not '{value}'"):
        make_processor(**settings)


def test_a_tokenizer_without_the_special_tokens_is_refused(image_processor):
    with pytest.raises(ValueError, match=r"lacks \['<image>', '<image_1>'"):
        MultiImageProcessor(plain_tokenizer(TEXTS), image_processor, TOKENS)


def test_special_tokens_are_added_once(image_processor):
    tokenizer = plain_tokenizer(TEXTS)
    before = len(tokenizer)
    assert add_special_tokens(tokenizer, 8) == len(tokenizer) - before == 9
    assert add_special_tokens(tokenizer, 8) == 0
    assert tokenizer.eos_token == "<|endoftext|>"
    MultiImageProcessor(tokenizer, image_processor, TOKENS)


# --- text to tokens ----------------------------------------------------------------------------

@given(st.integers(1, 8), st.integers(1, 5), st.sampled_from(["interleaved", "prepended"]),
       st.sampled_from(["after", "before", "none"]), st.randoms())
def test_every_image_takes_its_tokens(make_processor, num_images, tokens, layout, identifiers,
                                      random):
    processor = make_processor(layout=layout, identifiers=identifiers, tokens_per_image=tokens)
    pieces = [I] * num_images + ["What", " changed", "?"]
    random.shuffle(pieces)
    ids = processor.encode_prompt("".join(pieces), num_images)
    assert ids.count(processor.image_token_id) == num_images * tokens
    for k in range(1, 9):
        named = identifiers != "none" and k <= num_images
        assert ids.count(processor.tokenizer.convert_tokens_to_ids(f"<image_{k}>")) == named


def test_identifiers_and_placeholders_are_single_tokens(processor):
    for token in (I, "<image_1>", "<image_8>"):
        assert len(processor.tokenizer(token, add_special_tokens=False)["input_ids"]) == 1


def test_prompt_and_answer_are_tokenised_apart(make_processor):
    """A trap: where the two meet, their letters can fuse into a token no prompt ends with."""
    tokenizer = plain_tokenizer(["Go\n\n\nThe lake"] * 20)
    add_special_tokens(tokenizer, 8)
    processor = make_processor(tokenizer)
    answer = "\n\nThe lake"
    prompt_ids, answer_ids = processor.encode_prompt("Go", 0), processor.encode_answer(answer)
    together = tokenizer("Go\n" + answer, add_special_tokens=False)["input_ids"]
    apart = prompt_ids + answer_ids[:-1]
    assert tokenizer.decode(together) == tokenizer.decode(apart)
    assert together[:len(prompt_ids)] != prompt_ids  # generation would start from another prompt


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1))
def test_text_of_any_language_comes_back(processor, text):
    ids = processor.encode_answer(text)
    assert ids[-1] == processor.tokenizer.eos_token_id
    if not any(token in text for token in processor.tokenizer.all_special_tokens):
        assert processor.tokenizer.decode(ids[:-1]) == text


@pytest.mark.parametrize("text", [
    "湖はどこですか。", "Où est le lac ?", "Где озеро?", "أين البحيرة؟", "🏞️🚢", "झील कहाँ है?"])
def test_decode_gives_the_answer_without_its_end(processor, text):
    ids = processor.encode_answer(text)
    assert processor.decode(ids) == text
    assert processor.decode(torch.tensor(ids + [processor.pad_token_id] * 3)) == text
    assert processor.decode(ids + processor.encode_answer("more")) == text


def test_decode_keeps_identifiers(processor):
    assert processor.decode(processor.encode_answer("<image_2>")) == "<image_2>"


@pytest.mark.parametrize(("num_images", "advice"), [
    (0, "0 of them are those of its 0 images: shorten its text"),
    (1, "5 of them are those of its 1 images: shorten its text"),
    (4, "20 of them are those of its 4 images: use fewer images or fewer tokens per image")])
def test_too_long_a_sample_says_by_how_many_tokens_and_whose(make_processor, num_images, advice):
    """Whoever wrote a long caption is not helped by fewer images."""
    processor = make_processor(max_length=20)
    processor.check_length(20, num_images)
    with pytest.raises(ValueError, match=f"27 tokens long, 7 more than the 20 .*; {advice}"):
        processor.check_length(27, num_images)


# --- commands and text ---------------------------------------------------------------------------

def ids_of(processor, *tokens):
    return {processor.tokenizer.convert_tokens_to_ids(token) for token in tokens}


FOREIGN = ["<|endoftext|>", "<|pad|>"]


@pytest.mark.parametrize("token", FOREIGN)
def test_a_special_token_in_a_text_is_text(processor, token):
    """A trap: typed or quoted, an end of text ends the lesson that a caption gives."""
    text = f"He wrote {token} twice: {token}{token}."
    prompt, answer = processor.encode_prompt(f"{I}{text}", 1), processor.encode_answer(text)
    assert not ids_of(processor, token) & {*prompt, *answer[:-1]}
    assert prompt.count(processor.image_token_id) == TOKENS
    assert processor.tokenizer.decode(answer[:-1]) == text == processor.decode(answer)
    assert text in processor.tokenizer.decode(prompt)


def test_the_commands_of_a_prompt_are_obeyed_beside_special_tokens(processor):
    prompt = f"<|pad|>{I} and {I}<|endoftext|>: describe <image_2>."
    ids = processor.encode_prompt(prompt, 2)
    assert ids.count(processor.image_token_id) == 2 * TOKENS
    second, = ids_of(processor, "<image_2>")
    assert ids.count(second) == 2                       # behind its image, and where it is named
    assert not ids_of(processor, *FOREIGN) & set(ids)
    assert processor.tokenizer.decode(ids) == processor.lay_out(prompt, 2) + "\n"


def test_an_answer_may_name_images_and_not_hold_one(processor):
    ids = processor.encode_answer(f"<image_2>, not {I}.<|pad|>")
    assert processor.image_token_id not in ids and ids_of(processor, "<image_2>") <= set(ids)
    assert processor.decode(ids) == f"<image_2>, not {I}.<|pad|>"


def test_texts_without_special_tokens_are_tokenised_as_ever(processor):
    for text in ("A lake.", "<image_1> a lake; <image_2> a road.", "a < b > c <imag>"):
        plain = processor.tokenizer(text, add_special_tokens=False)["input_ids"]
        assert processor.encode_answer(text)[:-1] == plain


@given(st.lists(st.sampled_from(["<image>", "<image_2>", "<", ">", "image", "_3", "<|pad|>", " a"]),
                min_size=1, max_size=8).map("".join))
def test_nothing_in_a_quoted_text_is_obeyed_and_all_of_it_comes_back(processor, text):
    quoted = as_text(text)
    assert quoted.replace("\u2060", "") == text
    assert as_text(quoted) == quoted
    ids = processor.encode_answer(quoted)
    special = {processor.tokenizer.convert_tokens_to_ids(t)
               for t in processor.tokenizer.all_special_tokens}
    assert not special & set(ids[:-1])
    assert processor.tokenizer.decode(ids[:-1]) == quoted
    prompt = processor.encode_prompt(f"{I}Which image shows {quoted}?", 1)
    assert prompt.count(processor.image_token_id) == TOKENS


@pytest.mark.parametrize("kind", ["prompt", "answer"])
def test_half_a_character_is_refused(processor, kind):
    encode = processor.encode_answer if kind == "answer" else \
        lambda text: processor.encode_prompt(text, 0)
    with pytest.raises(ValueError, match=f"the {kind} holds half of a character"):
        encode("a \ud83d b")


def test_a_tokenizer_without_padding_pads_with_its_end(make_processor):
    tokenizer = plain_tokenizer(TEXTS)
    add_special_tokens(tokenizer, 8)
    processor = make_processor(tokenizer)
    assert tokenizer.pad_token_id is None
    assert processor.pad_token_id == tokenizer.eos_token_id
    assert processor.decode(processor.encode_answer("Yes.")) == "Yes."


# --- images ------------------------------------------------------------------------------------

@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P", "1", "CMYK", "LA"])
@pytest.mark.parametrize("size", [(64, 64), (1, 1), (3, 200), (1, 3)])
def test_pictures_of_any_mode_and_size_become_pixels(processor, picture, mode, size):
    pixels = processor.pixel_values([picture(0, size).convert(mode)])
    assert pixels.shape == (1, 3, 64, 64)
    assert pixels.isfinite().all() and pixels.abs().max() <= 1


def test_pixels_keep_order_and_colour(processor):
    colours = {"red": 0, "lime": 1, "blue": 2}
    pixels = processor.pixel_values([Image.new("RGB", (5, 9), c) for c in colours])
    for image, channel in zip(pixels, colours.values(), strict=True):
        expected = torch.full((3,), -1.0)
        expected[channel] = 1
        assert torch.allclose(image.mean((1, 2)), expected, atol=1e-6)


def test_no_image_is_refused(processor):
    with pytest.raises(ValueError, match="no image was given"):
        processor.pixel_values([])


def test_a_path_instead_of_an_image_is_refused(processor, picture):
    with pytest.raises(ValueError, match="image 2 is a str, .*open_image"):
        processor.pixel_values([picture(), "photo.jpg"])


@pytest.mark.parametrize("kind", ["uint16", "int32", "float32"])
def test_a_picture_of_more_than_8_bits_is_refused(processor, picture, kind):
    """A trap: Pillow cuts its values to 255, and 16-bit pictures come all white."""
    deep = Image.fromarray(np.linspace(0, 60_000, 64).reshape(8, 8).astype(kind))
    with pytest.raises(ValueError, match=f"image 2 has more than 8 bits .*{deep.mode}.*as_rgb"):
        processor.pixel_values([picture(), deep])


def test_a_picture_without_pixels_is_refused(processor):
    with pytest.raises(ValueError, match="image 1 is 0 x 5 pixels"):
        processor.pixel_values([Image.new("RGB", (0, 5))])


# --- files -------------------------------------------------------------------------------------

def test_a_saved_processor_comes_back(make_processor, tmp_path, picture):
    processor = make_processor(layout="prepended", identifiers="before", max_length=99)
    processor.save_pretrained(tmp_path)
    again = MultiImageProcessor.from_pretrained(tmp_path)
    assert again.encode_prompt(PROMPT, 2) == processor.encode_prompt(PROMPT, 2)
    assert again.encode_answer("Ja, ein See.") == processor.encode_answer("Ja, ein See.")
    assert again.max_length == 99 and again.pad_token_id == processor.pad_token_id
    assert torch.equal(again.pixel_values([picture()]), processor.pixel_values([picture()]))


def test_settings_may_be_changed_on_loading(processor, tmp_path):
    processor.save_pretrained(tmp_path)
    assert MultiImageProcessor.from_pretrained(tmp_path, layout="prepended").layout == "prepended"
