"""Data sets: recipes from a seed, splits that do not leak, labels on answers only."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vlm_utils import tiny_earth
from vlm_utils.datasets import (
    EncodedSamples,
    Recipe,
    TaskDataset,
    Truth,
    build_recipes,
    build_tasks,
    encode_sample,
    encode_text,
    feasible,
    load_image_table,
    mask_prompt,
)
from vlm_utils.profiles import get_profile

MIXTURE = {"select 2": 30, "select 3": 40, "compare 2": 30, "sequence 2-4": 30, "refer 1-3": 20,
           "describe 1": 10}
SPLITS = ("train", "validation", "test")
FRAMES = Truth([None] * 16, [[]] * 16, [tuple(range(16))])


# --- recipes -----------------------------------------------------------------------------------

def test_recipes_depend_on_the_seed_alone(earth_truth):
    first = build_recipes(earth_truth, MIXTURE, seed=3)
    assert build_recipes(earth_truth, MIXTURE, seed=3) == first
    assert build_recipes(earth_truth, MIXTURE, seed=4) != first


def test_a_mixture_is_filled_without_repeats_and_shuffled(earth_truth):
    recipes = build_recipes(earth_truth, MIXTURE, seed=0)
    assert len(set(recipes)) == len(recipes) == sum(MIXTURE.values())
    for name, count in MIXTURE.items():
        task, _, numbers = name.partition(" ")
        low, _, high = numbers.partition("-")
        fitting = [r for r in recipes
                   if r.task == task and int(low) <= len(r.rows) <= int(high or low)]
        assert len(fitting) >= count
    assert {len(r.rows) for r in recipes if r.task == "sequence"} == {2, 3, 4}
    assert len({r.task for r in recipes[:30]}) > 3


def test_a_small_data_set_gives_fewer_samples_not_the_same_again(caption_truth):
    recipes = build_recipes(caption_truth, {"describe 1": 200}, seed=0)
    assert len(set(recipes)) == len(recipes)
    assert 50 < len(recipes) <= 60  # 12 images with 5 captions each


def test_an_unknown_task_is_refused_and_the_known_ones_named(earth_truth):
    with pytest.raises(ValueError, match="unknown task 'count': choose from .*'select'"):
        build_recipes(earth_truth, {"count 2": 5}, seed=0)


@pytest.mark.parametrize(("truth", "mixture", "kept"), [
    ("earth_truth", MIXTURE, MIXTURE),
    ("caption_truth", MIXTURE,
     {"select 2": 30, "select 3": 40, "compare 2": 30, "refer 1-3": 20, "describe 1": 10}),
    ("caption_truth", {"select 13": 5, "select 12": 5, "ask 1": 5}, {"select 12": 5}),
    (FRAMES, MIXTURE, {"compare 2": 30, "sequence 2-4": 30, "describe 1": 10}),
    (FRAMES, {"sequence 2-16": 5, "sequence 17": 5}, {"sequence 2-16": 5}),
])
def test_what_the_data_cannot_tell_is_left_out(truth, mixture, kept, request):
    truth = request.getfixturevalue(truth) if isinstance(truth, str) else truth
    assert feasible(truth, mixture) == kept
    for name in kept:
        assert build_recipes(truth, {name: 2}, seed=0)


# --- samples -----------------------------------------------------------------------------------

@given(st.lists(st.integers(0, 99)), st.lists(st.integers(0, 99)))
def test_labels_leave_out_the_prompt_and_learn_the_whole_answer(prompt, answer):
    assert mask_prompt(prompt, answer) == [-100] * len(prompt) + answer


def test_the_end_token_is_learnt_also_where_it_is_the_padding_token(make_processor, make_sample):
    """A trap: whoever masks padding by its number masks the end, and no answer ever ends."""
    import copy
    tokenizer = copy.deepcopy(make_processor().tokenizer)
    tokenizer.pad_token = tokenizer.eos_token
    processor = make_processor(tokenizer)
    assert processor.pad_token_id == tokenizer.eos_token_id
    encoded = encode_sample(make_sample(1), processor)
    assert encoded["labels"][-1] == encoded["input_ids"][-1] == tokenizer.eos_token_id


def test_a_sample_is_prompt_and_answer_and_only_the_answer_is_learnt(processor, make_sample):
    sample = make_sample(2)
    encoded = encode_sample(sample, processor)
    prompt = processor.encode_prompt(sample.prompt, 2)
    answer = processor.encode_answer(sample.answer)
    assert encoded["input_ids"] == prompt + answer
    assert encoded["labels"] == [-100] * len(prompt) + answer
    assert processor.image_token_id not in encoded["labels"]


def test_for_generation_the_prompt_alone_is_encoded(processor, make_sample):
    sample = make_sample(2)
    encoded = encode_sample(sample, processor, for_generation=True)
    assert encoded["input_ids"] == processor.encode_prompt(sample.prompt, 2)
    assert "labels" not in encoded and encoded["pixel_values"].shape[0] == 2


def test_a_sample_without_an_answer_is_not_learnt_from(processor, make_sample):
    with pytest.raises(ValueError, match="no answer to learn from"):
        encode_sample(make_sample(2, answer=None), processor)


def test_a_recipe_is_encoded_as_its_sample(earth_table, processor):
    recipe = build_recipes(earth_table.truth, {"select 3": 1}, seed=0)[0]
    sample = TaskDataset(earth_table, [recipe])[0]
    assert encode_text(recipe, processor) == encode_text(sample, processor)


def test_samples_tokenised_once_are_encoded_as_each_alone(earth_table, processor):
    dataset = build_tasks(earth_table, {"select 3": 20, "compare 2": 20}, seed=0)
    dataset.recipes += dataset.recipes[:5]                # what repeats is tokenised once
    together = EncodedSamples(dataset, processor)
    assert len(together) == 45
    for i in (0, 3, 42):
        alone = encode_sample(dataset[i], processor)
        assert together[i]["input_ids"] == alone["input_ids"]
        assert together[i]["labels"] == alone["labels"]
        assert torch.equal(together[i]["pixel_values"], alone["pixel_values"])
    assert together.lengths == [len(encode_text(r, processor)["input_ids"])
                                for r in dataset.recipes]


def test_a_sample_is_never_cut_but_refused(make_processor, make_sample):
    """A trap: cut to fit, an answer is gone and the loss is no number."""
    sample = make_sample(2)
    length = len(encode_sample(sample, make_processor())["input_ids"])
    encode_sample(sample, make_processor(max_length=length))
    with pytest.raises(ValueError, match=f"{length} tokens long, 3 more than the {length - 3}"):
        encode_sample(sample, make_processor(max_length=length - 3))


def test_a_task_data_set_joins_recipes_and_images(earth_table):
    dataset = build_tasks(earth_table, {"select 3": 4, "compare 2": 4}, seed=0)
    for i, recipe in enumerate(dataset.recipes):
        sample = dataset[i]
        assert (sample.prompt, sample.answer) == (recipe.prompt, recipe.answer)
        for image, row in zip(sample.images, recipe.rows, strict=True):
            assert np.array_equal(image, earth_table.dataset[row]["image"])
    assert {r.task for r in dataset.of_task("compare").recipes} == {"compare"}


def test_encoded_images_replace_pictures_and_these_can_still_be_seen(earth_table):
    features = torch.arange(len(earth_table)).view(-1, 1, 1).expand(-1, 16, 32)
    dataset = TaskDataset(replace(earth_table, image_features=features),
                          [Recipe((5, 2), "<image><image>Go", "Yes.", "select")])
    assert dataset[0].images == []
    assert dataset[0].image_features[:, 0, 0].tolist() == [5, 2]
    assert len(dataset.with_images(0).images) == 2
    assert dataset.of_task("select").table.image_features is features


# --- splits ------------------------------------------------------------------------------------

def test_no_site_is_in_two_splits():
    """A site seen in training must not come back in the test, be it as one frame of many."""
    sites = {}
    for split in SPLITS:
        for load in (tiny_earth.load_scenes, tiny_earth.load_sequences):
            for site in load(split)["site"]:
                assert sites.setdefault(site, split) == split
    assert set(sites.values()) == set(SPLITS)


def test_every_frame_of_the_embedded_world_keeps_its_truth():
    table = load_image_table(get_profile("tiny"), "validation")
    singles = tiny_earth.load_scenes("validation")
    series = tiny_earth.load_sequences("validation")
    assert len(table) == len(table.truth.scenes) == len(table.truth.captions)
    assert len(table) == len(singles) + sum(map(len, series["dates"]))
    assert np.array_equal(table.image(3), singles[3]["image"])
    rows = table.truth.sites[7]
    for row, frame, scene in zip(rows, series[7]["frames"], series[7]["scenes"], strict=True):
        assert np.array_equal(table.image(row), frame)
        assert table.truth.scenes[row] == tiny_earth.Scene.from_json(scene)
        assert table.truth.captions[row] == tiny_earth.captions(table.truth.scenes[row])


def test_an_unknown_split_is_refused():
    with pytest.raises(ValueError, match="train, validation or test, not 'dev'"):
        load_image_table(get_profile("tiny"), "dev")


@pytest.fixture
def folder_of_images(tmp_path, picture, monkeypatch):
    """VLM_IMAGES with nine images, one caption each: image 3 is "thing 3."."""
    folder = tmp_path / "mine"
    folder.mkdir()
    lines = []
    for i in range(9):
        picture(i).save(folder / f"{i}.png")
        lines.append(json.dumps({"file_name": f"{i}.png", "caption_0": f"thing {i}."}))
    (folder / "metadata.jsonl").write_text("\n".join(lines))
    monkeypatch.setenv("VLM_IMAGES", str(folder))
    return folder


def test_a_quarter_of_a_users_images_is_kept_for_testing(folder_of_images, picture):
    train, test = (load_image_table(get_profile(), split) for split in ("train", "test"))
    shown = {name: {texts[0] for texts in table.truth.captions}
             for name, table in (("train", train), ("test", test))}
    assert (len(train), len(test)) == (5, 4)            # never fewer than 4
    assert not shown["train"] & shown["test"]
    assert shown["train"] | shown["test"] == {f"thing {i}." for i in range(9)}
    for row, (caption,) in enumerate(test.truth.captions):
        assert np.array_equal(test.image(row), picture(int(caption[6])))


def test_a_users_captions_make_selections(folder_of_images):
    dataset = build_tasks(load_image_table(get_profile(), "train"), MIXTURE, seed=0)
    assert {r.task for r in dataset.recipes} == {"select", "compare", "refer", "describe"}
    assert all(r.answer for r in dataset.recipes)


def test_frames_without_captions_stay_together_in_order(folder_of_images, picture):
    (folder_of_images / "metadata.jsonl").unlink()
    table = load_image_table(get_profile(), "train")
    assert table.truth.sites == [tuple(range(9))]
    assert all(np.array_equal(table.image(i), picture(i)) for i in range(9))
    dataset = build_tasks(table, MIXTURE, seed=0)
    assert {r.task for r in dataset.recipes} == {"describe", "compare", "sequence"}
    assert {r.answer for r in dataset.recipes} == {None}


def test_a_folder_that_is_not_there_is_named(folder_of_images):
    shutil.rmtree(folder_of_images)
    with pytest.raises(FileNotFoundError, match="VLM_IMAGES names .*mine, which is not a folder"):
        load_image_table(get_profile(), "train")
