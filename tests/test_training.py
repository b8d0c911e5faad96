"""Training: images encoded once, every parameter in its group, and an interruption that costs
nothing."""

import json
import os
import shutil
import signal
import threading
from dataclasses import replace

import pytest
import torch
from test_folders import damage
from torch import nn

from vlm_utils.architecture import MultiImageVLM
from vlm_utils.datasets import Recipe, build_tasks, load_image_table
from vlm_utils.loading import (
    find_trained_model,
    lesson_checkpoint,
    load_checkpoint,
)
from vlm_utils.profiles import get_profile, output_folder
from vlm_utils.sources.folders import LOCK
from vlm_utils.training import (
    TrainingSettings,
    answer_weights,
    encode_table,
    make_optimizer,
    parameter_groups,
    resume_run,
    start_run,
    train,
)

SETTINGS = TrainingSettings(steps=12, batch_size=8, learning_rate=3e-3, warmup_steps=2)
MIXTURE = {"select 2": 12, "compare 2": 8, "sequence 2-4": 8}   # 28 samples: 3 batches an epoch


@pytest.fixture
def dataset(earth_table, make_model, processor):
    features = encode_table(earth_table, make_model(), processor)
    return build_tasks(replace(earth_table, image_features=features), MIXTURE, seed=0)


@pytest.fixture
def encoded_images(monkeypatch):
    """Numbers of images of the calls of encode_images, as they happen."""
    calls = []
    original = MultiImageVLM.encode_images

    def counted(self, pixel_values):
        calls.append(len(pixel_values))
        return original(self, pixel_values)

    monkeypatch.setattr(MultiImageVLM, "encode_images", counted)
    return calls


# --- encoding images once ----------------------------------------------------------------------

def test_encoded_images_equal_those_of_the_encoder(earth_table, model, processor):
    features = encode_table(earth_table, model, processor, batch_size=50)
    rows = [170, 3, 3, 99]
    expected = model.encode_images(processor.pixel_values([earth_table.image(r) for r in rows]))
    assert len(features) == len(earth_table)
    assert features[rows].dtype == torch.float16
    assert torch.allclose(features[rows].float(), expected, atol=2e-3, rtol=1e-3)


def test_no_image_is_encoded_twice(earth_table, model, processor, encoded_images):
    first = encode_table(earth_table, model, processor)
    assert sum(encoded_images) == len(earth_table)
    again = encode_table(earth_table, model, processor)
    assert sum(encoded_images) == len(earth_table)
    assert torch.equal(first[[0, 50]], again[[0, 50]])


def test_a_table_that_is_loaded_again_finds_its_features(model, processor, encoded_images):
    for _ in range(2):
        table = load_image_table(get_profile("tiny"), "validation")
        encode_table(table, model, processor)
    assert sum(encoded_images) == len(table)


def test_the_language_model_may_change_without_encoding_again(earth_table, model, processor,
                                                             encoded_images):
    encode_table(earth_table, model, processor)
    with torch.no_grad():
        model.language_model.lm_head.weight.add_(1)
    encode_table(earth_table, model, processor)
    assert sum(encoded_images) == len(earth_table)


def test_other_weights_are_encoded_anew(earth_table, model, processor, encoded_images):
    before = encode_table(earth_table, model, processor)
    with torch.no_grad():
        model.vision_encoder.layernorm.bias[0] += 1
    after = encode_table(earth_table, model, processor)
    assert sum(encoded_images) == 2 * len(earth_table)
    assert torch.allclose(after[[7]][..., 0], before[[7]][..., 0] + 1, atol=5e-3)


def test_other_preprocessing_is_encoded_anew(earth_table, model, make_processor, encoded_images):
    from transformers import ViTImageProcessorPil
    processor = make_processor()
    encode_table(earth_table, model, processor)
    processor.image_processor = ViTImageProcessorPil(size={"height": 64, "width": 64},
                                                     image_mean=[0.4, 0.5, 0.5])
    encode_table(earth_table, model, processor)
    assert sum(encoded_images) == 2 * len(earth_table)


def test_an_image_replaced_under_its_name_is_encoded_anew(tmp_path, picture, model, processor,
                                                         monkeypatch):
    """A student who swaps a photo for another must not be shown what the first one gave."""
    monkeypatch.setenv("VLM_IMAGES", str(tmp_path))
    for i in range(4):
        picture(i).save(tmp_path / f"{i}.png")
    before = encode_table(load_image_table(get_profile(), "train"), model, processor)
    picture(9, (50, 70)).save(tmp_path / "1.png")
    after = encode_table(load_image_table(get_profile(), "train"), model, processor)
    assert torch.equal(before[[0, 2]], after[[0, 2]])
    assert not torch.equal(before[[1]], after[[1]])


def test_an_image_replaced_by_one_of_the_same_size_and_time_is_encoded_again(
        tmp_path, picture, model, processor, monkeypatch):
    """A trap: a copy that keeps times, of a picture that is as many bytes long."""
    monkeypatch.setenv("VLM_IMAGES", str(tmp_path))
    for i in range(4):
        picture(i).save(tmp_path / f"{i}.bmp")
    changed = tmp_path / "1.bmp"
    before, then = encode_table(load_image_table(get_profile(), "train"), model, processor), \
        changed.stat()
    picture(9).save(changed)
    os.utime(changed, ns=(then.st_atime_ns, then.st_mtime_ns))
    assert (changed.stat().st_size, changed.stat().st_mtime_ns) == (then.st_size, then.st_mtime_ns)
    after = encode_table(load_image_table(get_profile(), "train"), model, processor)
    assert torch.equal(before[[0, 2]], after[[0, 2]])
    assert not torch.equal(before[[1]], after[[1]])


def test_an_image_that_was_only_moved_or_touched_is_not_encoded_again(
        tmp_path, picture, model, processor, monkeypatch, encoded_images):
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
        for i in range(4):
            picture(i).save(tmp_path / name / f"{i}.png")
        monkeypatch.setenv("VLM_IMAGES", str(tmp_path / name))
        encode_table(load_image_table(get_profile(), "train"), model, processor)
    assert sum(encoded_images) == 4


@pytest.fixture
def kept(tmp_path, earth_table, model, processor):
    """Encoded images in a folder: a function that encodes them if they are not there, the folder
    that they are kept in, and what is right."""
    def encode():
        return encode_table(earth_table, model, processor, folder=tmp_path)
    right = encode()[list(range(len(earth_table)))]
    (folder,) = tmp_path.iterdir()
    return encode, folder, right


@pytest.mark.parametrize("name, how, words", [
    ("features.arrow", "missing", "is missing"), ("features.arrow", "empty", "has 0 bytes"),
    ("features.arrow", "shorter", "bytes and was written with"),
    ("features.arrow", "half", "bytes and was written with"),
    ("features.arrow", "flipped", "checksum differs"), ("features.json", "flipped", "differs"),
    ("features.json", "shorter", "cannot be read"), ("features.json", "missing", "is missing")])
def test_damaged_features_are_noticed_and_made_again_once(kept, encoded_images, capsys, name, how,
                                                          words):
    encode, folder, right = kept
    encoded_images.clear()
    if how in ("half", "shorter"):
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[:len(content) // 2 if how == "half" else -3])
    else:
        damage(folder / name, how)
    again = encode()
    said = capsys.readouterr().out
    assert said.startswith("encoding the images again: ") and words in said and name in said
    assert torch.equal(again[list(range(len(right)))], right)
    assert sum(encoded_images) == len(right)
    encode()
    assert sum(encoded_images) == len(right) and capsys.readouterr().out == ""
    assert {path.name for path in folder.parent.iterdir()} == {folder.name}


def test_what_a_killed_process_left_of_features_goes(kept, earth_table, make_model, processor,
                                                     monkeypatch):
    """Half-written features of this encoder and of another one, as after a power cut."""
    encode, folder, right = kept
    for name in (folder.name, "0" * 32):
        work = folder.with_name(f"{name}.unfinished")
        (work / name).mkdir(parents=True)
        (work / LOCK).write_text("")
        (work / name / "features.arrow").write_bytes(b"half")
        (work / name / "tmpabcdefgh").write_bytes(b"more")
    damage(folder / "features.arrow", "flipped")
    assert torch.equal(encode()[[0, 5]], right[[0, 5]])
    assert {path.name for path in folder.parent.iterdir()} == {folder.name}


def test_an_encoding_that_fails_leaves_nothing_that_passes_for_features(
        tmp_path, earth_table, model, processor, monkeypatch):
    original, calls = MultiImageVLM.encode_images, []

    def fails_in_the_middle(self, pixels):
        calls.append(len(pixels))
        if len(calls) == 2:
            raise RuntimeError("out of memory")
        return original(self, pixels)

    with monkeypatch.context() as patch:
        patch.setattr(MultiImageVLM, "encode_images", fails_in_the_middle)
        with pytest.raises(RuntimeError, match="out of memory"):
            encode_table(earth_table, model, processor, folder=tmp_path)
    features = encode_table(earth_table, model, processor, folder=tmp_path)
    assert len(features) == len(earth_table) and len(list(tmp_path.iterdir())) == 1


def test_two_that_encode_the_same_images_at_once_do_it_once(tmp_path, earth_table, model, processor,
                                                           encoded_images):
    found = []
    threads = [threading.Thread(target=lambda: found.append(
        encode_table(earth_table, model, processor, folder=tmp_path))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert torch.equal(found[0][[0, 99]], found[1][[0, 99]])
    assert sum(encoded_images) == len(earth_table) and len(list(tmp_path.iterdir())) == 1


def test_images_that_were_not_encoded_before_are_encoded_at_each_step(
        earth_table, make_model, dataset, processor, encoded_images):
    slow = losses(make_model(), replace(dataset, table=earth_table), processor, SETTINGS)
    assert len(encoded_images) == SETTINGS.steps
    fast = losses(make_model(), dataset, processor, SETTINGS)
    assert len(encoded_images) == SETTINGS.steps
    assert slow == pytest.approx(fast, rel=1e-2)         # kept features are in half precision


# --- what decays -------------------------------------------------------------------------------

def test_matrices_decay_and_embeddings_norms_and_biases_do_not(model):
    """A trap: decay would shrink the rows of tokens that no batch uses."""
    decayed, kept = parameter_groups(model, 0.05)
    assert (decayed["weight_decay"], kept["weight_decay"]) == (0.05, 0)
    name_of = {id(p): n for n, p in model.named_parameters()}
    decayed, kept = ({name_of[id(p)] for p in g["params"]} for g in (decayed, kept))
    assert "language_model.model.embed_tokens.weight" in kept
    assert {n for n in name_of.values() if n.endswith("bias") and "vision" not in n} <= kept
    assert {n for n in name_of.values() if "norm" in n and "vision" not in n} <= kept
    assert "projector.layers.3.weight" in kept              # the closing LayerNorm
    assert "projector.layers.0.weight" in decayed
    assert "language_model.model.layers.0.self_attn.q_proj.weight" in decayed


def test_every_trainable_parameter_is_in_one_group_once(model):
    grouped = [id(p) for g in parameter_groups(model, 0.1) for p in g["params"]]
    trained = [id(p) for p in model.parameters() if p.requires_grad]
    assert sorted(grouped) == sorted(trained)
    assert len(set(grouped)) == len(grouped)


def test_the_row_of_an_unused_token_keeps_its_size(model, dataset, processor):
    unused = processor.tokenizer.convert_tokens_to_ids("<image_8>")
    embeddings = nn.Linear(1, 1)  # untied: in the output layer every row gets a gradient
    embeddings.weight = nn.Parameter(model.get_input_embeddings().weight.detach().clone())
    model.language_model.lm_head = embeddings
    before = model.get_input_embeddings().weight[unused].clone()
    run_training(model, dataset, processor, TrainingSettings(
        steps=3, batch_size=8, weight_decay=0.5, warmup_steps=0))
    assert torch.equal(model.get_input_embeddings().weight[unused], before)


# --- the loop ----------------------------------------------------------------------------------

def run_training(model, dataset, processor, settings, **options):
    return train(start_run(model, processor, dataset, settings), **options)


def losses(*arguments, **options):
    return run_training(*arguments, **options)["loss"].tolist()


def resumed_losses(folder, dataset, settings=None):
    """Of the run that a checkpoint holds, to its end; and the model."""
    run = resume_run(folder, dataset, settings)
    return train(run, folder)["loss"].tolist(), run.model


def test_training_lowers_the_loss_and_leaves_the_encoder_alone(make_model, dataset, processor):
    model, before = make_model(), make_model()
    history = run_training(model, dataset, processor, TrainingSettings(
        steps=40, batch_size=8, learning_rate=5e-3, warmup_steps=4))
    assert history["loss"].iloc[-5:].mean() < 0.5 * history["loss"].iloc[0]
    assert history["step"].tolist() == list(range(1, 41))
    assert not model.training
    for name, weight in model.vision_encoder.state_dict().items():
        assert torch.equal(weight, before.vision_encoder.state_dict()[name])
    assert not torch.equal(model.projector.layers[0].weight, before.projector.layers[0].weight)


def test_the_learning_rate_warms_up_and_falls_to_zero(model, dataset, processor):
    rates = run_training(model, dataset, processor, SETTINGS)["learning_rate"]
    assert rates.iloc[0] == pytest.approx(SETTINGS.learning_rate / 2)
    assert rates.max() == pytest.approx(SETTINGS.learning_rate)
    assert rates.iloc[-1] == pytest.approx(0)
    assert rates.iloc[1:].is_monotonic_decreasing


def test_one_seed_one_result(make_model, dataset, processor):
    first = losses(make_model(), dataset, processor, SETTINGS)
    assert losses(make_model(), dataset, processor, SETTINGS) == first
    other = TrainingSettings(**(vars(SETTINGS) | {"seed": 1}))
    assert losses(make_model(), dataset, processor, other) != first


def test_two_small_batches_train_as_one_large(make_model, dataset, processor):
    eight = replace(dataset, recipes=dataset.recipes[:8])
    models, results = [make_model(), make_model()], []
    for model, (batch_size, accumulation) in zip(models, [(8, 1), (4, 2)], strict=True):
        results.append(losses(model, eight, processor, TrainingSettings(
            steps=4, batch_size=batch_size, accumulation=accumulation, warmup_steps=0,
            learning_rate=1e-3)))
    assert results[0] == pytest.approx(results[1], rel=1e-4)
    for (name, a), b in zip(models[0].named_parameters(), models[1].parameters(), strict=True):
        assert torch.allclose(a, b, atol=2e-4), name


def test_the_precision_can_be_changed_without_a_new_kernel(make_model, dataset, processor):
    """accelerate keeps its state for the life of a process; a student runs a cell again."""
    for precision in ("no", "bf16", "no"):
        found = losses(make_model(), dataset, processor, TrainingSettings(
            steps=2, batch_size=8, precision=precision))
        assert len(found) == 2


def test_a_sample_without_an_answer_is_named(model, dataset, processor):
    dataset.recipes[2:4] = [Recipe((0, 1), "<image><image>What changed?", None, "compare")] * 2
    with pytest.raises(ValueError, match="sample 2 of 28: the sample has no answer"):
        run_training(model, dataset, processor, SETTINGS)


def test_too_few_samples_for_a_batch_are_refused(model, dataset, processor):
    with pytest.raises(ValueError, match="28 samples do not fill one batch of 32"):
        run_training(model, dataset, processor, TrainingSettings(steps=1, batch_size=32))


def test_a_loss_that_is_no_number_stops_and_writes_nothing(model, dataset, processor, tmp_path):
    with torch.no_grad():
        model.projector.layers[0].weight[0] = torch.nan
    with pytest.raises(FloatingPointError, match="loss is nan: lower the learning rate"):
        run_training(model, dataset, processor, SETTINGS, folder=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_profile_gives_its_numbers_and_a_cpu_no_half_precision(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    settings = TrainingSettings.of(get_profile("full"), steps=7)
    assert (settings.steps, settings.batch_size) == (7, get_profile("full").training.batch_size)
    assert settings.precision == "no"


# --- checkpoints -------------------------------------------------------------------------------

def interrupt_after(step):
    def on_step(row):
        if row["step"] == step:
            raise KeyboardInterrupt
    return on_step


@pytest.mark.parametrize("changes", [{"accumulation": 1}, {"accumulation": 2},
                                     {"optimizer": "muon"},
                                     {"optimizer": "adafactor", "learning_rate": 1e-2}])
def test_interrupted_and_resumed_is_as_never_interrupted(make_model, dataset, processor, tmp_path,
                                                         changes):
    settings = replace(SETTINGS, **changes)
    whole_model = make_model()
    whole = losses(whole_model, dataset, processor, settings)
    first = losses(make_model(), dataset, processor, settings, folder=tmp_path / "run",
                   on_step=interrupt_after(5))
    assert first == whole[:5]
    resumed, model = resumed_losses(tmp_path / "run", dataset)
    assert resumed == pytest.approx(whole, rel=1e-6)
    for a, b in zip(model.parameters(), whole_model.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-6)


@pytest.mark.parametrize("where", ["forward", "backward", "optimizer"])
def test_the_stop_button_takes_effect_at_the_end_of_the_step(make_model, dataset, processor,
                                                            tmp_path, where, monkeypatch):
    """Pressed in the middle of the fifth step: it is finished, counted and saved, and no more."""
    whole = losses(make_model(), dataset, processor, SETTINGS)
    model, calls = make_model(), []

    def press(*_):
        calls.append(1)
        if len(calls) == 5:
            signal.raise_signal(signal.SIGINT)

    run = start_run(model, processor, dataset, SETTINGS)
    if where == "optimizer":
        run.optimizer.optimizer.register_step_post_hook(press)
    elif where == "forward":
        model.projector.register_forward_hook(press)
    else:
        model.get_input_embeddings().weight.register_hook(press)
    first = train(run, tmp_path / "run")["loss"].tolist()
    assert first == whole[:5]
    assert resumed_losses(tmp_path / "run", dataset)[0] == pytest.approx(whole, rel=1e-6)


def test_pressed_twice_the_stop_button_interrupts_at_once(model, dataset, processor, tmp_path):
    def press_twice(row):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    run = start_run(model, processor, dataset, SETTINGS)
    before = signal.getsignal(signal.SIGINT)
    model.projector.register_forward_hook(lambda *_: press_twice(None))
    with pytest.raises(KeyboardInterrupt):
        train(run, tmp_path / "run")
    assert signal.getsignal(signal.SIGINT) is before and not (tmp_path / "run").exists()


def test_a_model_leaves_training_as_it_came(make_model, dataset, processor):
    """After half precision its forward is the plain one again, in float32."""
    model = make_model()
    run_training(model, dataset, processor, replace(SETTINGS, steps=2, precision="bf16"))
    assert not hasattr(model.forward, "__wrapped__") and not model.training
    assert all(p.grad is None for p in model.parameters())
    history = losses(model, dataset, processor, replace(SETTINGS, steps=1))
    seen = []
    model.projector.register_forward_hook(lambda _, __, out: seen.append(out.dtype))
    losses(model, dataset, processor, replace(SETTINGS, steps=1))
    assert seen == [torch.float32] and len(history) == 1


def test_a_finished_run_resumed_trains_no_more(make_model, dataset, processor, tmp_path):
    whole = losses(make_model(), dataset, processor, SETTINGS, folder=tmp_path / "run")
    assert resumed_losses(tmp_path / "run", dataset)[0] == whole


def test_a_checkpoint_is_a_model_that_anyone_can_read(make_model, dataset, processor, tmp_path):
    model = make_model()
    run_training(model, dataset, processor, SETTINGS, folder=tmp_path / "run")
    again, _ = load_checkpoint(tmp_path / "run")
    for a, b in zip(model.parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b)
    assert not any(p.requires_grad for p in again.vision_encoder.parameters())
    files = {path.name for path in (tmp_path / "run").iterdir()}
    assert {"model.safetensors", "config.json", "tokenizer.json", "training_state.pt"} <= files
    assert {path.name for path in tmp_path.iterdir()} == {"run"}


@pytest.mark.parametrize("where", ["torch.save", "MultiImageVLM.save_pretrained"])
def test_a_crash_while_writing_leaves_the_last_checkpoint_whole(make_model, dataset, processor,
                                                               tmp_path, monkeypatch, where):
    """The disk is full in the middle of the second checkpoint."""
    def full_disk(*_, **__):
        raise OSError("no space left on device")

    settings = TrainingSettings(**(vars(SETTINGS) | {"checkpoint_every": 6}))
    whole = losses(make_model(), dataset, processor, settings)
    owner = torch if where == "torch.save" else MultiImageVLM

    def break_disk(row):
        if row["step"] == 8:
            monkeypatch.setattr(owner, where.split(".")[1], full_disk)

    with pytest.raises(OSError, match="no space"):
        run_training(make_model(), dataset, processor, settings, folder=tmp_path / "run",
                     on_step=break_disk)
    monkeypatch.undo()
    monkeypatch.setattr("vlm_utils.loading.get_device", lambda: torch.device("cpu"))
    resumed, _ = resumed_losses(tmp_path / "run", dataset)
    assert resumed == pytest.approx(whole, rel=1e-6)


def test_muon_moves_the_matrices_and_adamw_the_rest(make_model):
    model = make_model()
    muon, adamw = make_optimizer(model, replace(SETTINGS, optimizer="muon")).parts
    embeddings = model.get_input_embeddings().weight
    matrices = [p for group in muon.param_groups for p in group["params"]]
    others = [p for group in adamw.param_groups for p in group["params"]]
    assert all(p.ndim == 2 for p in matrices)
    assert any(p is embeddings for p in others)
    trained = [p for p in model.parameters() if p.requires_grad]
    assert {id(p) for p in matrices + others} == {id(p) for p in trained}
    assert model.config.text_config.hidden_size in matrices[0].shape
    assert len(matrices) + len(others) == len(trained)


def test_one_schedule_drives_both_optimizers_also_after_a_state_was_put_back(make_model):
    settings = replace(SETTINGS, optimizer="muon")
    first = make_optimizer(make_model(), settings)
    second = make_optimizer(make_model(), settings)
    second.load_state_dict(first.state_dict())
    schedule = torch.optim.lr_scheduler.LambdaLR(second, lambda step: 0.5 ** step)
    second.step()
    schedule.step()
    assert {group["lr"] for part in second.parts for group in part.param_groups} == {
        settings.learning_rate / 2}


def test_adafactor_keeps_a_small_part_of_what_adamw_keeps(make_model):
    def kept(name):
        settings = replace(SETTINGS, optimizer=name)
        model = make_model()
        optimizer = make_optimizer(model, settings)
        for p in model.parameters():
            p.grad = torch.ones_like(p) if p.requires_grad else None
        optimizer.step()
        return sum(value.nbytes for state in optimizer.state.values()
                   for value in state.values() if torch.is_tensor(value))

    assert kept("adafactor") < 0.1 * kept("adamw")


def test_adafactor_learns(make_model, dataset, processor):
    settings = replace(SETTINGS, optimizer="adafactor", learning_rate=2e-2, steps=20)
    found = losses(make_model(), dataset, processor, settings)
    assert sum(found[-5:]) < 0.8 * sum(found[:5])


def test_an_unknown_optimizer_is_refused(make_model):
    with pytest.raises(ValueError, match="'sgd'"):
        make_optimizer(make_model(), replace(SETTINGS, optimizer="sgd"))


def test_each_sample_counts_the_same_whatever_the_length_of_its_answer():
    labels = torch.tensor([[-100, 5, 6, -100, -100], [-100, 1, 2, 3, 4], [-100] * 5])
    shares = answer_weights(labels, "samples")
    assert shares.sum(dim=1).tolist() == [1, 1, 0]
    assert shares[0].tolist() == [0, 0.5, 0.5, 0, 0]
    assert answer_weights(labels, "tokens").sum(dim=1).tolist() == [2, 4, 0]
    with pytest.raises(ValueError, match="'words'"):
        answer_weights(labels, "words")


@pytest.mark.parametrize("average", ["samples", "tokens"])
def test_accumulated_batches_have_the_gradient_of_one_large_batch(make_model, dataset, processor,
                                                                  average, monkeypatch):
    dataset.recipes = dataset.recipes[:8]                # all in one step, in whatever order
    # Plain averages of gradients would hide in AdamW's step, which forgets their scale.
    large = replace(SETTINGS, steps=1, batch_size=8, average=average, max_grad_norm=1e9)
    gradients = []
    for settings in (large, replace(large, batch_size=2, accumulation=4)):
        model = make_model()
        seen = {}
        monkeypatch.setattr("vlm_utils.training.run.make_optimizer",
                            lambda model, settings, seen=seen: keep_gradients(model, seen))
        run_training(model, dataset, processor, settings)
        gradients.append(seen)
    assert gradients[0].keys() == gradients[1].keys() != set()
    for name, gradient in gradients[0].items():
        assert torch.allclose(gradient, gradients[1][name], atol=1e-5, rtol=1e-3), name


def keep_gradients(model, seen):
    """An optimizer that keeps the gradients of its step, by name, and moves nothing."""
    class Keeper(torch.optim.SGD):
        def step(self, closure=None):
            seen.update({name: p.grad.clone() for name, p in model.named_parameters()
                         if p.grad is not None})
    return Keeper([p for p in model.parameters() if p.requires_grad], lr=1.0)


def test_resuming_with_other_settings_is_refused_and_they_are_named(make_model, dataset, processor,
                                                                  tmp_path):
    run_training(make_model(), dataset, processor, SETTINGS, folder=tmp_path / "run",
          on_step=interrupt_after(3))
    other = TrainingSettings(**(vars(SETTINGS) | {"learning_rate": 1e-3, "checkpoint_every": 5}))
    with pytest.raises(ValueError, match=r"other settings .*'learning_rate': \(0.003, 0.001\)}"):
        resume_run(tmp_path / "run", dataset, other)


def test_resuming_from_nothing_is_refused(dataset, tmp_path):
    with pytest.raises(FileNotFoundError, match="no checkpoint to resume from"):
        resume_run(tmp_path / "nowhere", dataset)


def test_lesson_05_finds_what_lesson_04_wrote(make_model, dataset, processor):
    _, which = find_trained_model(get_profile("tiny"))
    assert which == "the trained model in data/"
    with pytest.raises(FileNotFoundError, match="run lesson 04 first, to its end"):
        find_trained_model(get_profile("full"))
    run_training(make_model(), dataset, processor, SETTINGS,
                 folder=lesson_checkpoint(get_profile("tiny")))
    folder, which = find_trained_model(get_profile("tiny"))
    assert folder == output_folder() / "tiny" / "lesson_04" and "lesson 04 wrote" in which
    shutil.rmtree(folder)


def test_a_folder_without_a_model_is_named(tmp_path):
    (tmp_path / "other.json").write_text(json.dumps({}))
    with pytest.raises(FileNotFoundError, match=f"no model in {tmp_path}: config.json is missing"):
        load_checkpoint(tmp_path)
