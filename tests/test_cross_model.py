"""making/cross_model.py: the model of lesson 08 is a mean, and the command says of what."""

import json

import pytest
import torch
from long_series import few_places

from vlm_utils.loading import load_checkpoint
from vlm_utils.making import cross_model

FEW = {"select 3": 24, "compare 2": 24, "sequence 2-4": 24, "refer 1-3": 24}


@pytest.fixture
def small(monkeypatch):
    """The command with a few places, samples and questions."""
    monkeypatch.setattr(cross_model, "MIXTURE", FEW)
    monkeypatch.setattr(cross_model, "FURTHER_MIXTURE", FEW)
    monkeypatch.setattr(cross_model, "TASKS", ("select 3", "compare 2"))
    monkeypatch.setattr(cross_model, "load_image_table", lambda profile, split: few_places("test"))
    monkeypatch.setattr(cross_model, "more_series", lambda places: few_places("validation"))
    monkeypatch.setattr(cross_model, "measure", lambda model, processor, split: {"split": split})
    return cross_model


def run(monkeypatch, *arguments) -> None:
    monkeypatch.setattr("sys.argv", ["cross_model", "--steps", "2", *map(str, arguments)])
    cross_model.main()


def test_the_model_is_the_mean_of_one_and_of_those_that_went_on_from_it(small, monkeypatch,
                                                                        tmp_path):
    trained = []
    keep = cross_model.average_weights
    monkeypatch.setattr(cross_model, "average_weights",
                        lambda models: trained.extend(models) or keep(models))
    run(monkeypatch, "--output", tmp_path / "whole")
    run(monkeypatch, "--no-average", "--output", tmp_path / "one")
    assert [json.loads((tmp_path / name / "figures.json").read_text())["averaged"]
            for name in ("whole", "one")] == [True, False]
    whole, one = (load_checkpoint(tmp_path / name)[0] for name in ("whole", "one"))
    assert len(trained) == 1 + len(cross_model.FURTHER_SEEDS)
    weights = [dict(model.named_parameters()) for model in trained]
    alone = dict(one.named_parameters())
    moved = 0
    for name, weight in whole.named_parameters():
        assert torch.allclose(weight, torch.stack([w[name] for w in weights]).mean(0), atol=1e-6)
        assert torch.equal(weights[0][name], alone[name]), name
        moved += not torch.equal(weights[1][name], weights[2][name])
    assert moved        # two seeds, two trainings
