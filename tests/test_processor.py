"""The processor: where placeholders and identifiers go, and what is refused."""

import pytest
import torch
from conftest import TEXTS, TOKENS, plain_tokenizer
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from vlm_utils.architecture import IMAGE_TOKEN, MultiImageProcessor, add_special_tokens

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


def test_too_long_a_sample_says_by_how_many_tokens(make_processor):
    processor = make_processor(max_length=20)
    processor.check_length(20)
    with pytest.raises(ValueError, match="27 tokens long, 7 more than the 20"):
        processor.check_length(27)


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
