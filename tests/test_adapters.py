"""LoRA: what is trained, what is saved, what is loaded, and that nothing else moves."""

import pytest
import torch
from small_models import batch_of
from small_runs import (
    SETTINGS,
    interrupt_after,
    losses_of,
    resumed_losses,
    small_dataset,
    small_model,
)
from small_runs import small_processor as processor_of_runs

from vlm_utils.architecture import MultiImageVLM
from vlm_utils.loading import load_checkpoint
from vlm_utils.scaling import add_adapter, load_adapter, save_adapter
from vlm_utils.training import start_run, train


@pytest.fixture
def base_folder(make_model, processor, tmp_path):
    """A model that lies in a folder, as a base must."""
    make_model().save_pretrained(tmp_path / "base")
    processor.save_pretrained(tmp_path / "base")
    return tmp_path / "base"


@pytest.fixture
def batch(make_sample, processor):
    return batch_of([make_sample(3, seed=1), make_sample(1, seed=2)], processor)


def logits_of(model, batch):
    model.eval()
    with torch.no_grad():
        return model(**batch).logits


def learn(adapted, batch, steps=4):
    optimizer = torch.optim.AdamW([w for w in adapted.parameters() if w.requires_grad], lr=0.05)
    for _ in range(steps):
        adapted.train()
        adapted(**batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return adapted


def test_a_new_adapter_changes_no_answer(make_model, batch):
    """B starts at zero. Random numbers there would spoil the model before the first step."""
    before = logits_of(make_model(), batch)
    assert torch.equal(logits_of(add_adapter(make_model()), batch), before)


def test_the_adapter_and_the_projector_are_trained_and_nothing_else(make_model):
    names = {name for name, w in add_adapter(make_model()).named_parameters() if w.requires_grad}
    assert all("lora_" in name or "projector" in name for name in names)
    matrices = {name.split(".lora_")[0].split(".")[-1] for name in names if "lora_" in name}
    assert matrices == {f"{m}_proj" for m in ("q", "k", "v", "o", "gate", "up", "down")}
    assert not any("vision_encoder" in name for name in names)


def test_only_what_is_trained_moves(make_model, batch):
    adapted = add_adapter(make_model())
    before = {name: w.clone() for name, w in adapted.named_parameters()}
    learn(adapted, batch)
    for name, weight in adapted.named_parameters():
        assert torch.equal(weight, before[name]) != weight.requires_grad, name


def test_the_rank_is_that_of_every_matrix_and_the_scale_does_not_depend_on_it(make_model):
    """alpha / rank: an alpha that stays while the rank doubles halves each step."""
    for rank in (2, 5):
        adapted = add_adapter(make_model(), rank, scale=3.0)
        thin = [w for name, w in adapted.named_parameters() if "lora_A" in name]
        assert thin and all(w.shape[0] == rank for w in thin)
        layer = adapted.base_model.model.language_model.model.layers[0].self_attn.q_proj
        assert layer.scaling == {"default": 3.0}


def test_two_adapters_of_one_seed_are_equal(make_model):
    def drawn(seed):
        torch.rand(3)                                   # somebody draws in between
        return torch.cat([w.flatten() for name, w in add_adapter(
            make_model(), seed=seed).named_parameters() if "lora_A" in name])
    assert torch.equal(drawn(1), drawn(1)) and not torch.equal(drawn(1), drawn(2))


def test_saved_and_loaded_it_answers_as_it_did(base_folder, batch):
    adapted = learn(add_adapter(load_checkpoint(base_folder)[0]), batch)
    expected = logits_of(adapted, batch)
    untrained = logits_of(load_checkpoint(base_folder)[0], batch)
    folder = base_folder.with_name("adapter")
    save_adapter(adapted, folder)
    merged, _ = load_checkpoint(folder)
    assert type(merged) is MultiImageVLM
    torch.testing.assert_close(logits_of(merged, batch), expected, atol=1e-4, rtol=1e-4)
    assert (untrained - expected).abs().max() > 0.1
    apart, _ = load_adapter(folder)
    assert torch.equal(logits_of(apart, batch), expected)
    assert sum(w.requires_grad for w in apart.parameters()) == sum(
        w.requires_grad for w in adapted.parameters())


def test_the_file_holds_no_weight_of_the_base(base_folder, batch):
    from safetensors import safe_open
    adapted = add_adapter(load_checkpoint(base_folder)[0], rank=2)
    save_adapter(adapted, base_folder.with_name("adapter"))
    with safe_open(base_folder.with_name("adapter") / "adapter_model.safetensors", "pt") as file:
        assert all("lora_" in name or "projector" in name for name in file.keys())


def test_an_adapter_of_a_model_that_lies_nowhere_is_not_saved(make_model, tmp_path):
    """A trap: peft saves it without a word, and nobody can load it."""
    with pytest.raises(ValueError, match="was not loaded from a folder: save it with"):
        save_adapter(add_adapter(make_model()), tmp_path / "adapter")
    assert not (tmp_path / "adapter").exists()


def test_a_folder_with_anything_else_in_it_is_left_alone(base_folder, tmp_path):
    """A trap: peft writes a README.md of its own over the user's."""
    adapted = add_adapter(load_checkpoint(base_folder)[0])
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "README.md").write_text("my notes")
    for folder in (tmp_path / "mine", tmp_path / "mine" / "README.md"):
        with pytest.raises(FileExistsError, match="is there and holds no adapter"):
            save_adapter(adapted, folder)
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["README.md"]
    assert (tmp_path / "mine" / "README.md").read_text() == "my notes"
    (tmp_path / "empty").mkdir()
    for _ in range(2):                          # a later one takes the place of the first
        save_adapter(adapted, tmp_path / "empty")


def test_what_cannot_be_is_refused(make_model, base_folder):
    adapted = add_adapter(make_model())
    with pytest.raises(ValueError, match="has an adapter already"):
        add_adapter(adapted)
    with pytest.raises(ValueError, match="has an adapter already"):
        add_adapter(adapted.get_base_model())
    with pytest.raises(ValueError, match="at least 1, not 0"):
        add_adapter(make_model(), rank=0)
    with pytest.raises(FileNotFoundError, match="no adapter in .*base: adapter_config.json"):
        load_adapter(base_folder)


# --- half of the base -----------------------------------------------------------------------------

def test_a_base_in_half_precision_keeps_what_is_trained_whole(make_model, batch):
    """A trap: the projector asks its frozen copy for its dtype."""
    adapted = add_adapter(make_model(), half_base=True)
    for name, weight in adapted.named_parameters():
        if weight.requires_grad:
            assert weight.dtype == torch.float32, name
        elif ".projector." not in name:
            assert weight.dtype == torch.bfloat16, name
    before = adapted(**batch).loss.item()
    learn(adapted, batch)
    assert adapted(**batch).loss.item() < before - 0.1


def test_small_steps_are_lost_in_bfloat16_and_kept_in_float32():
    """Why half_base halves only what is frozen: 1 + 1/1000 is 1 in bfloat16."""
    for dtype, moved in ((torch.bfloat16, False), (torch.float32, True)):
        weight = torch.nn.Parameter(torch.ones(4, dtype=dtype))
        optimizer = torch.optim.SGD([weight], lr=1e-3)
        for _ in range(10):
            weight.sum().backward()
            optimizer.step()
            optimizer.zero_grad()
        assert (weight.float() != 1).all() == moved


# --- in the course's own loop ---------------------------------------------------------------------

def adapted_run(folder, dataset):
    model, processor = load_checkpoint(folder)
    return start_run(add_adapter(model, rank=4), processor, dataset, SETTINGS)


@pytest.fixture
def base_of_runs(tmp_path):
    small_model().save_pretrained(tmp_path / "base")
    processor_of_runs().save_pretrained(tmp_path / "base")
    return tmp_path / "base"


def test_train_writes_a_checkpoint_that_load_checkpoint_reads(base_of_runs, tmp_path):
    run = adapted_run(base_of_runs, small_dataset())
    history = train(run, tmp_path / "trained")
    assert history["loss"].iloc[-3:].mean() < history["loss"].iloc[0]
    size = sum(f.stat().st_size for f in (tmp_path / "trained").glob("adapter_model*"))
    assert 0 < size < (base_of_runs / "model.safetensors").stat().st_size
    merged, _ = load_checkpoint(tmp_path / "trained")
    assert not any("lora" in name for name in merged.state_dict())
    added = run.model.merge_and_unload()
    for name, weight in added.state_dict().items():
        torch.testing.assert_close(merged.state_dict()[name], weight, msg=name)


def test_an_interrupted_run_with_an_adapter_goes_on_to_equal_losses(base_of_runs, tmp_path):
    dataset = small_dataset()
    straight = losses_of(adapted_run(base_of_runs, dataset))
    run = adapted_run(base_of_runs, dataset)
    train(run, tmp_path / "trained", interrupt_after(5))
    assert resumed_losses(tmp_path / "trained", dataset) == straight
