"""How lesson 07's model is made: two trainings, and the mean of what further ones make of it."""

import json
from dataclasses import replace

import pytest
import torch
from long_series import few_places

from vlm_utils.datasets import parse_mixture
from vlm_utils.loading import load_checkpoint
from vlm_utils.making import time_model


@pytest.fixture
def small(monkeypatch, tmp_path):
    """The maker on a few places, with few samples and questions."""
    monkeypatch.setenv("VLM_OUTPUT", str(tmp_path / "output"))
    monkeypatch.setattr(time_model, "load_image_table", lambda profile, split: few_places(
        "train" if split == "train" else "test"))
    few = {"sequence 9-12": 12, "locate 1": 12}, {"date 2-8": 4}
    for name, value in {
            "TRAININGS": (few, few), "WEATHERS": {"seasons": 3}, "LONG_PLAIN": few[0],
            "LONG_DATED": few[1], "LONG_WEATHERS": {"clear": 3}, "LONG_PLACES": 20,
            "SETTINGS": replace(time_model.SETTINGS, batch_size=8), "WEATHER": ("seasons",),
            "ORIENTATIONS": 1, "TEST_PLAIN": {"sequence 16": 4}, "TEST_DATED": {"date 8": 4},
            "TEST_BOXES": {"locate 1": 4, "locate_change 2": 4}}.items():
        monkeypatch.setattr(time_model, name, value)
    return time_model


def run(maker, monkeypatch, *arguments):
    monkeypatch.setattr("sys.argv", ["time_model", "--steps", "2", *map(str, arguments)])
    maker.main()


def test_more_than_half_of_the_further_samples_have_9_to_16_frames_and_the_others_repeat():
    parts = parse_mixture(time_model.LONG_PLAIN) + parse_mixture(time_model.LONG_DATED)
    weather = sum(2 * count for count in time_model.LONG_WEATHERS.values())
    long = sum(part.samples for part in parts if part.fewest >= 9)
    assert long > (sum(part.samples for part in parts) + weather) / 2
    before = {part.task for mixtures in time_model.TRAININGS for mixture in mixtures
              for part in parse_mixture(mixture)}
    assert before == {part.task for part in parts}


def test_the_mean_of_models_is_that_of_each_weight(make_model):
    models = [make_model(seed) for seed in range(3)]
    for model in models[1:]:
        model.vision_encoder.load_state_dict(models[0].vision_encoder.state_dict())
    mean = time_model.average_weights(models)
    weights = [dict(model.named_parameters()) for model in models]
    for name, weight in mean.named_parameters():
        expected = torch.stack([each[name] for each in weights]).mean(0)
        assert torch.allclose(weight, expected), name
        if name.startswith("vision_encoder"):       # a trap: other features, by a rounding error
            assert torch.equal(weight, weights[0][name]), name
    assert not torch.equal(models[0].projector.state_dict()[
        next(iter(models[0].projector.state_dict()))], models[1].projector.state_dict()[
        next(iter(models[1].projector.state_dict()))])      # and the models are still themselves


def test_the_model_is_the_mean_of_one_and_of_two_that_went_on_from_it(small, monkeypatch, tmp_path):
    run(small, monkeypatch, "--no-average", "--output", tmp_path / "two")
    run(small, monkeypatch, "--output", tmp_path / "whole")
    figures = {name: json.loads((tmp_path / name / "figures.json").read_text())
               for name in ("two", "whole")}
    assert figures["two"]["steps"] == [2, 2] and figures["whole"]["steps"] == [2, 2, 2, 2]
    assert [row["task"] for row in figures["whole"]["tasks"]] == ["date", "sequence"]
    further = []
    for seed in small.AVERAGED_SEEDS:
        model, processor = load_checkpoint(tmp_path / "two")
        small.train_on_long_series(model, processor, seed, steps=2)
        further.append(model)
    expected = small.average_weights([load_checkpoint(tmp_path / "two")[0], *further])
    whole, start = (load_checkpoint(tmp_path / name)[0] for name in ("whole", "two"))
    for name, weight in whole.named_parameters():
        assert torch.allclose(weight, dict(expected.named_parameters())[name], atol=1e-6), name
    assert not torch.equal(whole.get_input_embeddings().weight, start.get_input_embeddings().weight)
