"""The base model's samples: image and text at any distance from each other."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vlm_utils.collate import collate
from vlm_utils.datasets import EncodedSamples, build_tasks
from vlm_utils.making.base_model import (
    GAP,
    make_tokenizer,
    name_from_known,
    spread_positions,
    spreading_collate,
)

IMAGE, NAME, WORD, PAD = 9, 1, 5, 0
BLOCK = torch.tensor([IMAGE, NAME])


def rows(count: int, tokens: int, words: int) -> torch.Tensor:
    """The same prompt in every row: image, its name, words."""
    return torch.tensor([[IMAGE] * tokens + [NAME] + [WORD] * words] * count)


def test_every_second_row_is_left_as_it_is():
    torch.manual_seed(0)
    ids = rows(4, 3, 5)
    positions = spread_positions(ids, BLOCK, 40)
    assert positions[::2].tolist() == [list(range(9))] * 2
    assert (positions[1::2] != torch.arange(9)).any(dim=1).all()


@pytest.mark.parametrize(("row", "gaps"), [
    ([WORD, WORD, IMAGE, IMAGE, NAME, WORD, WORD, PAD, PAD], [1, 4]),
    ([WORD, WORD, NAME, IMAGE, IMAGE, WORD, WORD, PAD, PAD], [1, 4]),
    ([WORD, NAME, IMAGE, IMAGE, NAME, WORD, NAME, WORD, PAD], [0, 4]),
    ([WORD, NAME, WORD, NAME, IMAGE, IMAGE, NAME, WORD, PAD], [2, 6]),
    ([WORD, IMAGE, NAME, IMAGE, NAME, WORD, NAME, WORD, PAD], [0, 4]),   # two images in a row
])
def test_gaps_stand_before_the_images_with_their_names_and_behind_them_only(row, gaps):
    torch.manual_seed(1)
    ids = torch.tensor([[WORD] * 9, row])
    seen = torch.stack([spread_positions(ids, BLOCK, 40)[1].diff() for _ in range(50)])
    assert torch.nonzero((seen > 1).any(dim=0)).flatten().tolist() == gaps
    assert seen.max() <= 41


@given(st.integers(1, 4), st.integers(1, 4), st.integers(0, 6), st.integers(0, 40))
def test_positions_always_rise_and_stay_within_two_gaps(count, tokens, words, gap):
    ids = rows(count, tokens, words)
    positions = spread_positions(ids, BLOCK, gap)
    assert (positions.diff(dim=1) >= 1).all()
    assert int(positions.max()) < ids.shape[1] + 2 * gap


def test_named_images_in_a_row_stay_together(earth_table, processor):
    dataset = build_tasks(earth_table, {"inventory 3": 8}, seed=0)      # images, then the text
    samples = EncodedSamples(dataset, processor)
    torch.manual_seed(0)
    batch = spreading_collate(processor)([samples[i] for i in range(8)])
    images = 3 * (processor.tokens_per_image + 1)                       # and a name for each
    assert (batch["position_ids"][:, :images].diff(dim=1) == 1).all()
    behind = batch["position_ids"][:, images] - batch["position_ids"][:, images - 1]
    assert behind[::2].tolist() == [1] * 4 and (behind[1::2] > 1).any()


def test_a_batch_differs_from_an_ordinary_one_by_its_positions_alone(earth_table, processor):
    dataset = build_tasks(earth_table, {"refer 1": 8}, seed=0)
    samples = [EncodedSamples(dataset, processor)[i] for i in range(3)]
    plain = collate(samples, processor.pad_token_id)
    spread = spreading_collate(processor)(samples)
    positions = spread.pop("position_ids")
    assert positions.shape == spread["input_ids"].shape
    assert int(positions.max()) < processor.max_length + 2 * GAP
    assert all(torch.equal(plain[key], spread[key]) for key in plain)


@pytest.mark.parametrize(("text", "tokens"), [
    ("[12, 30]", ["[", "1", "2", ",", "Ġ", "3", "0", "]"]),
    ("2019-03", ["2", "0", "1", "9", "-", "0", "3"]), ("60,7", ["6", "0", ",", "7"])])
def test_digits_brackets_and_commas_are_tokens_of_their_own(text, tokens):
    """Also where the texts to learn from hold the same number a hundred times."""
    tokenizer = make_tokenizer(["[12, 30, 40, 60]", "2019-03-17 and 60,70"] * 100, 16)
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert tokenizer.convert_ids_to_tokens(ids) == tokens


@given(st.text())
def test_every_text_survives_the_tokenizer(tokenizer, text):
    special = set(tokenizer.all_special_tokens)
    if not any(token in text for token in special):
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert tokenizer.decode(ids) == text


def test_names_that_no_sample_holds_start_from_the_mean_of_the_others(model, processor):
    rows = model.get_input_embeddings().weight.data
    names = [processor.tokenizer.convert_tokens_to_ids(f"<image_{k}>") for k in range(1, 9)]
    before = rows.clone()
    name_from_known(model, processor, 3)
    assert torch.equal(rows[names[3:]], before[names[:3]].mean(dim=0).expand(5, -1))
    kept = [i for i in range(len(rows)) if i not in names[3:]]
    assert torch.equal(rows[kept], before[kept])
