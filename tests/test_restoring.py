"""A run that goes on is the run that was interrupted: in every setting, or it says what differs."""

import json
from dataclasses import fields, replace
from functools import partial

import pytest
import torch
from peft import LoraConfig, get_peft_model
from small_models import beside_sequence
from small_runs import (
    SETTINGS,
    interrupt_after,
    losses_of,
    resumed_losses,
    small_dataset,
    small_model,
    small_processor,
)

from vlm_utils.architecture.adapters import without_peft_warnings
from vlm_utils.collate import collate
from vlm_utils.loading import load_checkpoint
from vlm_utils.profiles import TrainingSettings
from vlm_utils.real_data import unfreeze_encoder
from vlm_utils.scaling import Shards, add_adapter, load_adapter, move_base, save_adapter
from vlm_utils.scaling.adapters import MATRICES
from vlm_utils.sources import folders
from vlm_utils.sources.checkpoints import MARKER, find_checkpoints
from vlm_utils.training import resume_run, start_run, train
from vlm_utils.training.restoring import describe_model, name_of, restore_model

PICTURES = replace(small_dataset(), table=replace(small_dataset().table, image_features=None))


@pytest.fixture
def base(tmp_path):
    """A function that loads the small model from a folder, as a base must lie in one."""
    small_model().save_pretrained(tmp_path / "base")
    small_processor().save_pretrained(tmp_path / "base")
    return lambda: load_checkpoint(tmp_path / "base")[0]


# --- each way to train --------------------------------------------------------------------------

def in_half(model):
    return model.to(torch.bfloat16)


def some_in_half(model):
    model.vision_encoder.to(torch.bfloat16)
    return model


def projector_alone(model):
    model.language_model.requires_grad_(False)
    return model


def recomputing(model):
    model.activation_checkpointing_enable()
    return model


def eager(model):
    model.set_attn_implementation("eager")
    return model


def thin_matrices(model, **options):
    torch.manual_seed(3)
    with without_peft_warnings():
        return get_peft_model(model, LoraConfig(
            target_modules=MATRICES, modules_to_save=["projector"], **options))


WAYS = {
    "LoRA, half of the base": partial(add_adapter, half_base=True),
    "LoRA of another rank and scale": partial(add_adapter, rank=3, scale=0.5),
    "LoRA with dropout": partial(thin_matrices, r=2, lora_dropout=0.3),
    "rank-stabilised LoRA of queries": partial(thin_matrices, r=4, use_rslora=True),
    "LoRA that computes again": lambda model: recomputing(add_adapter(model, half_base=True)),
    "all weights in bfloat16": in_half,
    "encoder in bfloat16": some_in_half,
    "projector alone": projector_alone,
    "activation checkpointing": recomputing,
    "attention in plain sight": eager,
    "the last layer of the encoder": partial(unfreeze_encoder, layers=1)}


@pytest.mark.parametrize("way", WAYS)
def test_a_run_goes_on_as_the_model_it_was_to_equal_losses(base, way, tmp_path):
    """A trap: from_pretrained gives float32, and trains all but the encoder. The losses go on
    falling, so nobody sees it."""
    dataset = PICTURES if "encoder" in way else small_dataset()

    def run():
        return start_run(WAYS[way](base()), small_processor(), dataset, SETTINGS)

    straight = run()
    described = describe_model(straight.model)
    whole = losses_of(straight)
    losses_of(run(), tmp_path / "run", interrupt_after(5))
    resumed = resume_run(tmp_path / "run", dataset)
    assert describe_model(resumed.model) == described
    assert losses_of(resumed, tmp_path / "run") == whole


def test_without_its_cure_a_half_base_comes_back_whole(base, tmp_path, monkeypatch):
    """Else the test above could pass whatever is restored."""
    for name in ("vlm_utils.training.checkpoints.restore_model",
                 "vlm_utils.architecture.adapters.halve_frozen"):
        monkeypatch.setattr(name, lambda *arguments: None)
    model = add_adapter(base(), half_base=True)
    whole = losses_of(start_run(model, small_processor(), small_dataset(), SETTINGS))
    model = add_adapter(base(), half_base=True)
    run = start_run(model, small_processor(), small_dataset(), SETTINGS)
    losses_of(run, tmp_path / "run", interrupt_after(5))
    assert resumed_losses(tmp_path / "run") != whole


def test_of_the_model_with_cross_attention_what_is_frozen_stays_frozen(tmp_path):
    def run():
        model, processor = beside_sequence(small_processor(), latents=3)
        model.language_model.requires_grad_(False)
        for block in model.language_model.blocks:
            block.requires_grad_(True)
        return start_run(model, processor, small_dataset(), SETTINGS)

    whole = losses_of(run())
    losses_of(run(), tmp_path / "run", interrupt_after(5))
    assert resumed_losses(tmp_path / "run") == whole


@pytest.mark.parametrize("layout", [None, Shards()])
@pytest.mark.parametrize("optimizer", ["adamw", "muon", "adafactor"])
def test_an_encoder_that_trains_in_smaller_steps_goes_on_in_them(base, tmp_path, optimizer, layout):
    """Each group of weights has its own learning rate, whoever keeps the optimizer's state."""
    settings = replace(SETTINGS, encoder_rate=0.1, optimizer=optimizer, steps=8)

    def run():
        return start_run(unfreeze_encoder(base()), small_processor(), PICTURES, settings,
                         layout=layout)

    whole = losses_of(run())
    losses_of(run(), tmp_path / "run", interrupt_after(5))
    resumed = resume_run(tmp_path / "run", PICTURES, layout=layout)
    rates = {group["initial_lr"] for group in resumed.optimizer.param_groups}
    assert rates == {SETTINGS.learning_rate, 0.1 * SETTINGS.learning_rate}
    assert losses_of(resumed, tmp_path / "run") == whole


def test_what_is_said_of_a_model_is_short(base):
    """Names of modules, not of hundreds of weights."""
    assert describe_model(base())["frozen"] == ["vision_encoder"]
    assert describe_model(in_half(base())) | {"attention": None} == {
        "dtype": "bfloat16", "dtypes": {}, "frozen": ["vision_encoder"], "recomputed": [],
        "attention": None}
    assert describe_model(base().requires_grad_(False))["frozen"] == [""]


def test_a_part_that_is_missing_is_named(base):
    described = describe_model(base()) | {"frozen": ["sound_encoder"]}
    with pytest.raises(ValueError, match="had sound_encoder, and this one has not"):
        restore_model(base(), described)


# --- what is refused ----------------------------------------------------------------------------

OTHERS = {"batch_size": 4, "accumulation": 2, "learning_rate": 1e-3, "encoder_rate": 0.5,
          "warmup_steps": 3, "weight_decay": 0.5, "max_grad_norm": 2.0, "precision": "bf16",
          "window": 9, "average": "tokens", "optimizer": "muon", "seed": 5, "steps": 20}


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("interrupted") / "run"
    losses_of(start_run(small_model(), small_processor(), small_dataset(), SETTINGS), folder,
              interrupt_after(5))
    return folder


@pytest.mark.parametrize("name", [each.name for each in fields(TrainingSettings)])
def test_every_setting_is_gone_on_with_or_refused_by_name(interrupted, name):
    if name == "checkpoint_every":              # changes nothing but when is saved
        other = replace(SETTINGS, checkpoint_every=3)
        assert resume_run(interrupted, small_dataset(), other).settings == other
        return
    with pytest.raises(ValueError, match=rf"'{name}': \({getattr(SETTINGS, name)!r}, "
                                         rf"{OTHERS[name]!r}\)"):
        resume_run(interrupted, small_dataset(), replace(SETTINGS, **{name: OTHERS[name]}))
    assert resume_run(interrupted, small_dataset()).settings == SETTINGS


def test_another_collator_is_refused_by_name(interrupted):
    def without_labels(samples):
        return collate(samples, small_processor().pad_token_id)

    with pytest.raises(ValueError, match=r"made by vlm_utils\.collate\.collate, and are made by "
                                         r".*without_labels now: give resume_run the same"):
        resume_run(interrupted, small_dataset(), collate_fn=without_labels)
    again = resume_run(interrupted, small_dataset(), collate_fn=partial(
        collate, pad_token_id=small_processor().pad_token_id))
    assert name_of(again.loader.collate_fn) == "vlm_utils.collate.collate"


def test_another_layout_is_refused_by_name(interrupted):
    with pytest.raises(ValueError, match="was trained in copies and is to go on in shards"):
        resume_run(interrupted, small_dataset(), layout=Shards())


# --- the base of an adapter -----------------------------------------------------------------------

@pytest.fixture
def adapted(base, tmp_path):
    """The folder of an interrupted training of an adapter, and that of one that was saved."""
    model = add_adapter(base(), rank=2)
    losses_of(start_run(model, small_processor(), small_dataset(), SETTINGS), tmp_path / "run",
              interrupt_after(5))
    save_adapter(model, tmp_path / "adapter")
    return tmp_path / "run", tmp_path / "adapter"


def test_another_model_in_the_place_of_the_base_is_refused(adapted, tmp_path):
    """A trap: lesson 04, run again, writes to the same folder. The adapter fits its shapes."""
    run, adapter = adapted
    small_model(seed=1).save_pretrained(tmp_path / "base")
    words = "is a LoRA adapter of the model that was in .*base, and another model is there now"
    with pytest.raises(ValueError, match=words):
        resume_run(run, small_dataset())
    for load in (load_checkpoint, load_adapter):
        with pytest.raises(ValueError, match=words):
            load(adapter)


def test_a_base_that_has_moved_is_found_when_the_adapter_is_told(adapted, tmp_path):
    run, adapter = adapted
    expected = resumed_losses(tmp_path / "run")
    losses_of(start_run(add_adapter(load_checkpoint(tmp_path / "base")[0], rank=2),
                        small_processor(), small_dataset(), SETTINGS), tmp_path / "second",
              interrupt_after(5))
    (tmp_path / "base").rename(tmp_path / "elsewhere")
    small_model(seed=1).save_pretrained(tmp_path / "wrong")
    (second,) = find_checkpoints(tmp_path / "second")
    for folder in (adapter, second.path, run):
        with pytest.raises(FileNotFoundError, match="and there is no model: write its folder into "
                                                    "the adapter with vlm_utils.scaling.move_base"):
            load_checkpoint(folder)
        before = (folder / "adapter_config.json").read_bytes()
        with pytest.raises(ValueError, match="another model is there now"):
            move_base(folder, tmp_path / "wrong")
        with pytest.raises(FileNotFoundError, match="there is no model"):
            move_base(folder, tmp_path / "nowhere")
        assert (folder / "adapter_config.json").read_bytes() == before
    for folder in (adapter, tmp_path / "second", run):
        move_base(folder, tmp_path / "elsewhere")
    assert not (adapter / MARKER).exists() and folders.verify(run, MARKER)
    load_checkpoint(adapter)
    load_checkpoint(run)
    assert resumed_losses(tmp_path / "second") == expected
    with pytest.raises(FileNotFoundError, match="no adapter in .*elsewhere"):
        move_base(tmp_path / "elsewhere", tmp_path / "elsewhere")


@pytest.mark.parametrize(("change", "words"), [
    (lambda model: setattr(model.config, "name_or_path", ""), "was not loaded from a folder: save"),
    (lambda model: model.vision_encoder.requires_grad_(True),
     r"\d+ weights are trained that are not part of the adapter, as .*vision_encoder")])
def test_what_could_not_be_loaded_again_is_refused_before_the_first_step(base, tmp_path, change,
                                                                         words):
    """A trap: peft saves it without a word, and hours of training are worth nothing."""
    model = add_adapter(base())
    change(model)
    run = start_run(model, small_processor(), PICTURES, SETTINGS)
    with pytest.raises(ValueError, match=words):
        train(run, tmp_path / "run")
    assert not run.history and not (tmp_path / "run.unfinished").exists()
    with pytest.raises(ValueError, match=words):
        save_adapter(model, tmp_path / "adapter")


def test_an_adapter_does_not_take_the_place_of_its_base(tmp_path):
    """A trap: the finished adapter would replace the only model that it is worth something on."""
    losses_of(start_run(small_model(), small_processor(), small_dataset(), SETTINGS),
              tmp_path / "run")
    before = (tmp_path / "run" / "model.safetensors").read_bytes()
    model = add_adapter(load_checkpoint(tmp_path / "run")[0])
    run = start_run(model, small_processor(), small_dataset(), SETTINGS)
    with pytest.raises(ValueError, match="holds the model under the adapter.*folder of its own"):
        train(run, tmp_path / "run")
    assert (tmp_path / "run" / "model.safetensors").read_bytes() == before


def test_a_saved_adapter_in_half_precision_comes_back_in_half(base, tmp_path):
    model = add_adapter(base(), half_base=True)
    save_adapter(model, tmp_path / "adapter")
    apart, _ = load_adapter(tmp_path / "adapter")
    assert describe_model(apart) == describe_model(model)
    merged, _ = load_checkpoint(tmp_path / "adapter")
    assert {weight.dtype for weight in merged.parameters()} == {torch.float32}


def test_a_merged_adapter_is_a_model_that_can_be_trained_on(adapted):
    """A trap: peft leaves everything frozen. Lesson 04's training of it would train nothing."""
    merged, processor = load_checkpoint(adapted[1])
    assert describe_model(merged)["frozen"] == ["vision_encoder"] and not merged.training
    history = train(start_run(merged, processor, small_dataset(), SETTINGS))
    assert history["loss"].iloc[-3:].mean() < history["loss"].iloc[0]


def test_an_adapter_is_not_saved_into_the_checkpoint_of_a_training(adapted, base, tmp_path):
    resumed_losses(adapted[0])
    with pytest.raises(FileExistsError, match="holds the checkpoint of a training"):
        save_adapter(add_adapter(base()), adapted[0])
    json.loads((adapted[0] / MARKER).read_text())
    load_checkpoint(adapted[0])
