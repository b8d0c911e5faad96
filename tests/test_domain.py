"""A new domain: another sensor, an encoder of two paths, pretraining on captions, unfreezing."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from small_models import SIDE, small_model

from vlm_utils.architecture import TwoPathConfig, TwoPathEncoder
from vlm_utils.datasets import ImageTable, Truth, add_orientations, build_tasks
from vlm_utils.evaluation import predict, wilson_interval
from vlm_utils.loading import load_checkpoint
from vlm_utils.real_data import (
    OTHER_SENSOR,
    Augmentation,
    Sensor,
    caption_targets,
    grow_encoder,
    join_datasets,
    join_tables,
    measure_domains,
    pretrain_encoder,
    seen_by,
    turned_copies,
    unfreeze_encoder,
)
from vlm_utils.real_data.pretraining import caption_loss, phrases, shift_each, turn_each
from vlm_utils.tiny_earth.turning import turn_tensor
from vlm_utils.training import (
    TrainingSettings,
    encode_table,
    make_optimizer,
    resume_run,
    start_run,
    train,
)

GROWN = {"widths": (8, 8, 8, 8), "conv_size": 8}


@pytest.fixture
def model(processor):
    return small_model(processor)


@pytest.fixture
def grown(processor):
    return grow_encoder(small_model(processor), **GROWN)


# --- another sensor ----------------------------------------------------------------------------

def test_a_sensor_changes_pictures_and_keeps_rows_and_truth(earth_table):
    seen = seen_by(OTHER_SENSOR, earth_table)
    assert len(seen) == len(earth_table) and seen.truth is earth_table.truth
    for row in (0, len(seen) - 1):
        picture, before = np.asarray(seen.image(row), int), np.asarray(earth_table.image(row), int)
        assert picture.shape == before.shape
        assert np.abs(picture - before).mean() > 10


def test_a_sensor_sees_the_same_each_time():
    picture = Image.fromarray(np.arange(64 * 64 * 3, dtype=np.uint8).reshape(64, 64, 3))
    first, second, other = (np.asarray(OTHER_SENSOR.see(picture, seed)) for seed in (1, 1, 2))
    assert (first == second).all() and (first != other).any()


def test_a_sensor_that_changes_nothing_is_the_identity():
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8))
    assert (np.asarray(Sensor().see(picture, 0)) == np.asarray(picture)).all()


def test_colours_haze_and_resolution_do_what_they_say():
    red = Image.new("RGB", (4, 4), (200, 0, 0))
    swapped = Sensor(colours=((0, 0, 1), (0, 1, 0), (1, 0, 0))).see(red, 0)
    assert swapped.getpixel((0, 0)) == (0, 0, 200)
    assert Sensor(haze=0.5, haze_colour=(100, 100, 100)).see(red, 0).getpixel((0, 0)) == (
        150, 50, 50)
    lines = Image.fromarray(np.tile(np.array([[0, 255]], np.uint8), (4, 2))).convert("RGB")
    assert np.ptp(np.asarray(Sensor(resolution=2).see(lines, 0))) == 0


def test_what_another_sensor_sees_has_features_of_its_own(earth_table, model, processor):
    """A trap: features of the same rows, found again under the fingerprint of other pictures."""
    earth_table = replace(earth_table)
    earth_table.image_features = encode_table(earth_table, model, processor)
    seen = seen_by(OTHER_SENSOR, earth_table)
    assert seen.image_features is None
    encoded = encode_table(seen, model, processor)
    assert encoded.fingerprint != earth_table.image_features.fingerprint
    assert not torch.allclose(encoded[[0]].float(), earth_table.image_features[[0]].float())


def test_a_turned_table_is_seen_and_stays_turned(earth_table):
    turned = add_orientations(earth_table, 2)
    seen = seen_by(Sensor(), turned)
    row = len(earth_table) + 1
    assert (np.asarray(seen.image(row)) == np.asarray(turned.image(row))).all()


# --- two paths ---------------------------------------------------------------------------------

def test_a_grown_encoder_changes_no_answer_and_no_number(processor, earth_table):
    """A trap: columns in the wrong order, or a path that speaks before it is trained."""
    torch.manual_seed(0)
    model, grown = small_model(processor), grow_encoder(small_model(processor), **GROWN)
    images = torch.randn(3, 3, SIDE, SIDE)
    old, new = model.encode_images(images), grown.encode_images(images)
    assert new.shape == (3, 16, 32 + 8)
    assert torch.equal(new[..., :32], old)
    assert new[..., 32:].abs().min(dim=-1).values.max() > 0
    assert torch.allclose(grown.projector(new), model.projector(old), atol=1e-6)
    questions = build_tasks(earth_table, {"select 2": 6, "refer 3": 6}, seed=0)
    first, second = (predict(each, processor, questions, max_new_tokens=8)
                     for each in (model, grown))
    assert first["prediction"].tolist() == second["prediction"].tolist()


def test_the_new_path_orders_its_patches_as_the_vit_does(grown):
    """A change in one corner moves the vector of that corner most of all four."""
    path = grown.vision_encoder.conv_path
    torch.manual_seed(0)
    image = torch.randn(8, 3, SIDE, SIDE)
    corners = {0: (0, 0), 3: (0, 48), 12: (48, 0), 15: (48, 48)}
    for patch, (top, left) in corners.items():
        other = image.clone()
        other[..., top:top + 16, left:left + 16] *= -1
        with torch.no_grad():
            moved = (path(other) - path(image)).norm(dim=-1).mean(dim=0)    # (patches,)
        assert max(corners, key=lambda corner: float(moved[corner])) == patch


def test_only_the_new_path_and_the_rest_of_the_model_train(grown):
    trains = {name.split(".")[0] for name, p in grown.vision_encoder.named_parameters()
              if p.requires_grad}
    assert trains == {"conv_path"}
    assert all(p.requires_grad for p in grown.projector.parameters())


def test_a_frozen_path_does_not_move_in_a_training(grown, processor, earth_table):
    """A trap: batch norms go on counting what they see, frozen or not."""
    grown.freeze_vision_encoder()
    before = {name: value.clone() for name, value in grown.vision_encoder.state_dict().items()}
    questions = build_tasks(earth_table, {"select 2": 16}, seed=0)
    train(start_run(grown, processor, questions, TrainingSettings(steps=2, batch_size=8)))
    assert all(torch.equal(before[name], value)
               for name, value in grown.vision_encoder.state_dict().items())


def test_a_trained_path_comes_back_as_it_was_trained(grown, processor, tmp_path):
    torch.nn.init.normal_(grown.projector.layers[0].weight)
    for norm in grown.vision_encoder.modules():
        if isinstance(norm, torch.nn.BatchNorm2d):
            norm.running_mean.normal_()
    grown.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    loaded, _ = load_checkpoint(tmp_path)
    assert isinstance(loaded.vision_encoder, TwoPathEncoder)
    images = torch.randn(2, 3, SIDE, SIDE)
    assert torch.equal(loaded.encode_images(images), grown.encode_images(images))
    assert [p.requires_grad for p in loaded.vision_encoder.parameters()] == [
        p.requires_grad for p in grown.vision_encoder.parameters()]


def test_stages_that_do_not_end_at_a_patch_are_refused(model):
    with pytest.raises(ValueError, match="one vector of each 8 x 8 pixels, and the ViT's patches "
                                         "are 16"):
        TwoPathConfig(model.vision_encoder.config, widths=(8, 8, 8))


def test_an_encoder_grows_once(grown):
    with pytest.raises(ValueError, match="two paths already"):
        grow_encoder(grown)
    with pytest.raises(ValueError, match="keeps its ViT"):
        unfreeze_encoder(grown)


# --- unfreezing --------------------------------------------------------------------------------

def test_the_last_layers_are_unfrozen_and_come_back_so(processor, tmp_path):
    from transformers import ViTConfig, ViTModel
    model = small_model(processor)
    config = ViTConfig(**model.vision_encoder.config.to_dict() | {"num_hidden_layers": 3})
    model.vision_encoder = ViTModel(config, add_pooling_layer=False)
    model.config.vision_config = config
    unfreeze_encoder(model, layers=1)
    trains = {name for name, p in model.vision_encoder.named_parameters() if p.requires_grad}
    assert {name.split(".")[0] for name in trains} == {"layers", "layernorm"}
    assert {name.split(".")[1] for name in trains if name.startswith("layers")} == {"2"}
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    loaded, _ = load_checkpoint(tmp_path)
    assert {name for name, p in loaded.vision_encoder.named_parameters()
            if p.requires_grad} == trains
    unfreeze_encoder(model)
    assert all(p.requires_grad for p in model.vision_encoder.parameters())


def test_a_layer_that_is_not_there_is_refused(model):
    for layers in (0, 2):
        with pytest.raises(ValueError, match=f"layers={layers}: the vision encoder has 1 layers"):
            unfreeze_encoder(model, layers)


@pytest.mark.parametrize("optimizer", ["adamw", "muon", "adafactor"])
def test_the_encoder_has_a_learning_rate_of_its_own(model, optimizer):
    """A trap: encoder matrices under Muon take the rate of all the others."""
    unfreeze_encoder(model)
    settings = TrainingSettings(steps=1, learning_rate=1e-2, encoder_rate=0.1, optimizer=optimizer)
    made = make_optimizer(model, settings)
    rates = {id(p): round(group["lr"], 9) for group in made.param_groups for p in group["params"]}
    assert len(rates) == sum(1 for p in model.parameters() if p.requires_grad)
    of_encoder = {id(p) for p in model.vision_encoder.parameters()}
    assert {rate for p, rate in rates.items() if p in of_encoder} == {1e-3}
    assert {rate for p, rate in rates.items() if p not in of_encoder} == {1e-2}


def test_a_smaller_rate_moves_the_encoder_less(processor, earth_table):
    moved = {}
    for rate in (1.0, 0.01):
        model = unfreeze_encoder(small_model(processor))
        before = [p.detach().clone() for p in model.vision_encoder.parameters()]
        questions = build_tasks(earth_table, {"select 2": 16}, seed=0)
        train(start_run(model, processor, questions, TrainingSettings(
            steps=2, batch_size=8, warmup_steps=0, encoder_rate=rate, weight_decay=0.0,
            optimizer="muon")))
        moved[rate] = sum(float((p - b).abs().sum().detach()) for p, b in zip(
            model.vision_encoder.parameters(), before, strict=True))
    assert 0 < moved[0.01] < moved[1.0] / 20


def test_a_rate_for_a_frozen_encoder_is_refused(model):
    with pytest.raises(ValueError, match="encoder is frozen"):
        make_optimizer(model, TrainingSettings(steps=1, encoder_rate=0.1))


def test_a_run_with_an_unfrozen_layer_is_resumed(processor, earth_table, tmp_path):
    """A trap: the whole encoder is unfrozen on the way back, and the optimizer's state misfits."""
    model = unfreeze_encoder(small_model(processor), layers=1)
    questions = build_tasks(earth_table, {"select 2": 32}, seed=0)
    settings = TrainingSettings(steps=4, batch_size=8, checkpoint_every=2, encoder_rate=0.1,
                                optimizer="muon")

    def stop(row):
        if row["step"] == 2:
            raise KeyboardInterrupt

    train(start_run(model, processor, questions, settings), tmp_path / "run", on_step=stop)
    run = resume_run(tmp_path / "run", questions)
    history = train(run, tmp_path / "run")
    assert history["step"].tolist() == [1, 2, 3, 4]
    whole = unfreeze_encoder(small_model(processor), layers=1)
    straight = train(start_run(whole, processor, questions, settings))
    assert np.allclose(history["loss"], straight["loss"])


# --- captions as targets -----------------------------------------------------------------------

def test_few_single_captions_are_classes():
    targets = caption_targets([["forest"], ["lake"], ["forest"]])
    assert targets.classes and targets.names == ("forest", "lake")
    assert targets.values.tolist() == [[1, 0], [0, 1], [1, 0]]


def test_other_captions_are_phrases_that_tell_images_apart():
    captions = [[f"A lake in the top left, number {i}."] if i % 4 else
                [f"A road, number {i}."] for i in range(40)]
    captions = [each * 2 for each in captions]
    targets = caption_targets(captions)
    assert not targets.classes
    assert "road" in targets.names and "a road number" in targets.names
    assert "number" not in targets.names                    # true of all, so it tells nothing
    assert not any("39" in name.split() and "1" in name.split() for name in targets.names)
    road = targets.names.index("road")
    assert targets.values[:, road].tolist() == [float(i % 4 == 0) for i in range(40)]


def test_phrases_are_words_in_a_row():
    assert phrases(["A lake!"]) == {"a", "lake", "a lake"}
    assert "lake in the top left" in phrases(["A lake in the top left."])


def test_an_image_without_a_caption_is_refused():
    with pytest.raises(ValueError, match="no caption"):
        caption_targets([["forest"], []])


def test_of_phrases_one_token_must_tell_and_of_classes_every_one():
    says = torch.full((1, 4, 2), -8.0)
    says[0, 2, 0] = 12.0                                    # one of four tokens knows
    values = torch.tensor([[1.0, 0.0]])
    assert caption_loss(says, values, classes=False) < 0.2
    assert caption_loss(says, values, classes=True, smoothing=0.0) > 0.5
    everywhere = says.clone()
    everywhere[0, :, 0] = 12.0
    assert caption_loss(everywhere, values, classes=True, smoothing=0.0) < 0.01


def test_images_are_turned_and_shifted_each_in_its_own_way():
    image = torch.arange(64.0).view(1, 1, 8, 8)
    images = image.repeat(64, 3, 1, 1)
    orientations = [turn_tensor(images[0], k) for k in range(8)]
    found = {next(k for k, like in enumerate(orientations) if torch.equal(each, like))
             for each in turn_each(images, torch.Generator().manual_seed(0))}
    assert found == set(range(8))
    shifted = shift_each(images, 2, torch.Generator().manual_seed(0))
    assert shifted.shape == images.shape
    assert len({float(each[0, 4, 4]) for each in shifted}) > 5
    assert all(abs(float(each[0, 4, 4]) // 8 - 4) <= 2 for each in shifted)


def classes_of(table: ImageTable) -> ImageTable:
    """The covers of TinyEarth tiles as their only captions, as class folders have them."""
    covers = [[scene.cover] for scene in table.truth.scenes]
    return replace(table, truth=Truth([None] * len(covers), covers, [(i,) for i in range(
        len(covers))]))


def test_pretraining_learns_classes_and_leaves_the_vit(grown, processor, earth_table):
    table = classes_of(earth_table)
    before = [p.detach().clone() for p in grown.vision_encoder.vit.parameters()]
    history = pretrain_encoder(grown, processor, table, steps=30, batch_size=16,
                               learning_rate=1e-2, augment=Augmentation(turned=True))
    losses = [row["loss"] for row in history]
    assert [row["step"] for row in history] == list(range(1, 31))
    assert np.mean(losses[-5:]) < 0.8 * np.mean(losses[:5])
    assert all(torch.equal(a, b) for a, b in zip(
        before, grown.vision_encoder.vit.parameters(), strict=True))
    assert not grown.vision_encoder.training


def test_pretraining_is_the_same_for_the_same_seed(processor, earth_table):
    losses = [[row["loss"] for row in pretrain_encoder(
        grow_encoder(small_model(processor), **GROWN), processor, classes_of(earth_table),
        steps=3, batch_size=8, seed=seed)] for seed in (0, 0, 1)]
    assert losses[0] == losses[1] != losses[2]


def test_a_frozen_encoder_is_not_pretrained(model, processor, earth_table):
    with pytest.raises(ValueError, match="frozen: unfreeze_encoder"):
        pretrain_encoder(model, processor, earth_table, steps=1)


# --- tables together ---------------------------------------------------------------------------

def test_samples_of_two_tables_keep_their_images(earth_table, model, processor):
    """A trap: rows of the second table that name images of the first."""
    seen = seen_by(OTHER_SENSOR, earth_table)
    first, second = (build_tasks(table, {"select 2": 5}, seed=seed)
                     for table, seed in ((earth_table, 0), (seen, 1)))
    both = join_datasets(first, second)
    assert len(both) == 10
    for position, (alone, i) in enumerate([(first, k) for k in range(5)]
                                          + [(second, k) for k in range(5)]):
        ours, theirs = both.with_images(position), alone.with_images(i)
        assert ours.prompt == theirs.prompt and ours.answer == theirs.answer
        assert all((np.asarray(a) == np.asarray(b)).all()
                   for a, b in zip(ours.images, theirs.images, strict=True))


def test_encoded_tables_join_with_their_features(earth_table, model, processor):
    tables = [replace(earth_table), seen_by(OTHER_SENSOR, earth_table)]
    for table in tables:
        table.image_features = encode_table(table, model, processor)
    joined = join_tables(tables)
    count = len(earth_table)
    rows = [count + 2, 0, count - 1, count]
    wanted = [tables[1].image_features[[2]], tables[0].image_features[[0]],
              tables[0].image_features[[count - 1]], tables[1].image_features[[0]]]
    assert torch.equal(joined.image_features[rows], torch.cat(wanted))
    assert len(joined) == len(joined.image_features) == 2 * count
    with pytest.raises(ValueError, match="not encoded and another table is"):
        join_tables([tables[0], replace(tables[1], image_features=None)])


def test_a_turned_table_stays_turned_in_a_joined_one(earth_table):
    turned = add_orientations(earth_table, 3)
    joined = join_tables([earth_table, turned])
    for row in (len(earth_table) + 1, 3 * len(earth_table) + 2):
        inside = row - len(earth_table)
        assert (np.asarray(joined.image(row)) == np.asarray(turned.image(inside))).all()
        assert joined.where(row) == turned.where(inside)


def test_training_on_two_tables_is_resumed_by_what_it_is_of(earth_table, model, processor):
    from vlm_utils.training.fingerprints import describe_samples
    seen = seen_by(OTHER_SENSOR, earth_table)
    datasets = [join_datasets(build_tasks(earth_table, {"select 2": 5}, seed=0),
                              build_tasks(table, {"select 2": 5}, seed=0))
                for table in (seen, earth_table)]
    from vlm_utils.datasets import EncodedSamples
    first, second = (describe_samples(EncodedSamples(each, processor)) for each in datasets)
    assert first["image"] != second["image"]


def test_copies_are_turned_and_keep_their_class(earth_table):
    table = classes_of(earth_table)
    turned = turned_copies(table, 8)
    assert len(turned) == 8 * len(table)
    row = 3 * len(table) + 1
    assert turned.truth.captions[row] == table.truth.captions[1]
    plain = torch.from_numpy(np.asarray(table.image(1)).copy()).permute(2, 0, 1)
    assert torch.equal(torch.from_numpy(np.asarray(turned.image(row)).copy()).permute(2, 0, 1),
                       turn_tensor(plain, 3))


def test_captions_that_name_a_direction_are_not_turned(earth_table):
    captions = earth_table.truth.captions
    told = replace(earth_table, truth=Truth([None] * len(captions), captions, []))
    with pytest.raises(ValueError, match="wrong of the turned image"):
        turned_copies(told, 2)
    with pytest.raises(ValueError, match="use add_orientations"):
        turned_copies(earth_table, 2)


def test_domains_are_measured_side_by_side(earth_table, model, processor):
    tables = {"here": replace(earth_table), "there": seen_by(OTHER_SENSOR, earth_table)}
    table = measure_domains(model, processor, tables, {"select 2": 12}, controls=True)
    assert table["domain"].tolist() == ["here", "there"]
    assert {"accuracy", "low", "high", "blind", "shuffled"} <= set(table)
    assert (table["samples"] == 12).all()


def test_an_interval_counts_no_more_than_the_images_that_are_shown(earth_table, model, processor):
    """A trap: many questions about few pictures, and an interval as of so many pictures."""
    few = replace(earth_table, dataset=earth_table.dataset.select(range(6)), truth=Truth(
        earth_table.truth.scenes[:6], earth_table.truth.captions[:6], []))
    table = measure_domains(model, processor, {"few": few, "many": replace(earth_table)},
                            {"refer 1": 60, "select 3": 60}).set_index(["domain", "task"])
    for (domain, _), row in table.iterrows():
        counted = min(row["samples"], row["images"])
        assert (row["images"] == 6) == (domain == "few")
        assert (row["low"], row["high"]) == wilson_interval(
            round(row["accuracy"] * counted), counted)
        assert row["low"] <= row["accuracy"] <= row["high"]
    width = (table["high"] - table["low"]).groupby("domain").min()
    assert width["few"] > 2 * width["many"]
