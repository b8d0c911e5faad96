"""The full profile, from a cache in the hub's own layout; without one, a clear message."""

import re
import shutil
import socket
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import datasets
import huggingface_hub
import pytest
import torch
from hub_cache import into_hub_cache, write_flickr, write_parts
from small_models import SMALL_VIT, TEXTS, batch_of, filled_tokenizer, plain_tokenizer, small_llama
from transformers import LlamaConfig, LlamaForCausalLM, ViTConfig, ViTForImageClassification

from vlm_utils.architecture import count_parameters
from vlm_utils.course import prefetch as prefetch_module
from vlm_utils.course.prefetch import prefetch
from vlm_utils.datasets import Sample, build_tasks, load_image_table
from vlm_utils.loading import load_base_model, load_checkpoint
from vlm_utils.profiles import get_profile
from vlm_utils.sources.hub import PREFETCH, MissingFiles, damaged, fetch, in_cache, repositories
from vlm_utils.training import TrainingSettings, encode_table, start_run, train

FULL = get_profile("full")
ROWS = {"train": 12, "validation": 3, "test": 4}


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache of the hub, in place of the user's own."""
    folder = tmp_path / "hub"
    folder.mkdir()
    monkeypatch.setenv("VLM_PROFILE", "full")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(folder))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")
    return folder


@pytest.fixture
def attempts(monkeypatch):
    """No network: every attempt to reach it fails at once, and is written down here."""
    made = []

    def refuse(*arguments, **_):
        made.append(arguments)
        raise socket.gaierror("no network in this test")

    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    return made


@pytest.fixture
def filled(cache):
    """The cache with small models of the same architecture and a few rows of the same schema."""
    torch.manual_seed(0)
    tokenizer = plain_tokenizer(TEXTS)
    vision = ViTForImageClassification(ViTConfig(**SMALL_VIT))
    language = small_llama(tokenizer, pad_token_id=None)
    write_parts(cache, FULL, vision, language, tokenizer)
    write_flickr(into_hub_cache(cache, FULL.dataset), ROWS)
    return vision, language


def snapshot(cache, repository):
    return next(cache.glob(f"*{repository.repo_id.replace('/', '--')}/snapshots/*"))


# --- with a cache ------------------------------------------------------------------------------

def test_the_pinned_repositories():
    """The revisions of the issue this course was built from."""
    assert [(r.repo_id, r.revision) for r in repositories(FULL)[:2]] == [
        ("google/vit-base-patch16-224", "3f49326eb077187dfe1c2a2bb15fbd74e6ab91e3"),
        ("HuggingFaceTB/SmolLM-135M", "1d461723eec654e65efdc40cf49301c89c0c92f4")]
    assert FULL.dataset.repo_id == "jxie/flickr8k"
    assert repositories(get_profile("tiny")) == []


def test_a_cached_model_is_joined_without_a_network_attempt(filled, attempts):
    vision, language = filled
    model, processor = load_base_model(FULL)
    assert attempts == []
    encoder = dict(model.vision_encoder.named_parameters())
    for name, weight in vision.vit.named_parameters():      # none of them new and random
        assert torch.equal(encoder[name], weight), name
    rows = language.config.vocab_size
    embeddings = model.get_input_embeddings().weight
    assert torch.equal(embeddings[:rows], language.get_input_embeddings().weight)
    assert len(embeddings) == rows + 1 + FULL.max_images == model.config.text_config.vocab_size
    assert embeddings[rows:].isfinite().all() and embeddings[rows:].abs().sum(1).min() > 0
    assert model.get_output_embeddings().weight is embeddings
    assert not any(p.requires_grad for p in model.vision_encoder.parameters())
    assert processor.max_length == language.config.max_position_embeddings
    assert processor.image_token_id == model.config.image_token_id


def test_cached_images_are_a_table_with_five_captions(filled, attempts):
    for split, count in ROWS.items():
        table = load_image_table(FULL, split)
        assert len(table) == count
        assert table.image(1).size == (50, 40)
        assert table.truth.captions[2] == [f"A {split} dog 2 runs , wording {i} ."
                                           for i in range(5)]
    assert attempts == []


def test_the_full_profile_trains_a_step_saves_and_answers(filled, attempts, tmp_path):
    model, processor = load_base_model(FULL)
    table = load_image_table(FULL, "train")
    dataset = build_tasks(table, dict.fromkeys(FULL.mixture, 4), seed=0)
    assert {r.task for r in dataset.recipes} == {"describe", "select", "refer"}
    dataset.table.image_features = encode_table(table, model, processor)
    before = model.projector.layers[0].weight.clone()
    settings = TrainingSettings.of(FULL, steps=1, batch_size=8, warmup_steps=0)
    history = train(start_run(model, processor, dataset, settings), tmp_path / "run")
    assert len(history) == 1
    assert not torch.equal(model.projector.layers[0].weight, before)
    again, processor = load_checkpoint(tmp_path / "run")
    batch = batch_of([dataset.with_images(0)], processor, for_generation=True)
    ids = again.generate(**batch, max_new_tokens=4, do_sample=False,
                         pad_token_id=processor.pad_token_id)
    assert isinstance(processor.decode(ids[0]), str)
    assert attempts == []


def test_prefetch_of_a_whole_cache_fetches_nothing(filled, attempts, capsys):
    assert prefetch(FULL) == 0
    assert capsys.readouterr().out.count("in the cache") == 3
    assert attempts == []


# --- without -----------------------------------------------------------------------------------

def missing(call):
    with pytest.raises(MissingFiles) as caught:
        call()
    return str(caught.value)


@pytest.mark.parametrize("offline", [True, False])
def test_without_cache_and_network_one_message_names_all_that_is_missing(cache, attempts, offline,
                                                                        monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", offline)
    message = missing(lambda: load_base_model(FULL))
    assert "google/vit-base-patch16-224 (revision 3f49326eb077" in message
    assert "HuggingFaceTB/SmolLM-135M (revision 1d461723eec6" in message
    assert "VLM_PROFILE=full python -m vlm_utils prefetch" in message
    message = missing(lambda: load_image_table(FULL, "train"))
    assert "dataset jxie/flickr8k" in message and PREFETCH in message
    assert bool(attempts) != offline
    assert [path for path in cache.rglob("*") if path.is_file()] == []


def test_what_is_cached_is_not_called_missing(filled, cache, attempts):
    for file in snapshot(cache, FULL.language_model).glob("*.safetensors"):
        file.unlink()
    message = missing(lambda: load_base_model(FULL))
    assert "SmolLM-135M" in message and "vit-base" not in message


@pytest.mark.parametrize(("repository", "file"), [
    (FULL.vision_encoder, "model.safetensors"), (FULL.vision_encoder, "config.json"),
    (FULL.vision_encoder, "preprocessor_config.json"),
    (FULL.language_model, "model.safetensors"), (FULL.language_model, "tokenizer.json"),
    (FULL.dataset, "data/test-00000-of-00001.parquet")])
def test_a_download_that_was_cut_short_counts_as_missing(filled, cache, attempts, repository,
                                                         file):
    assert in_cache(repository) is not None
    (snapshot(cache, repository) / file).unlink()
    assert in_cache(repository) is None
    assert repository.repo_id in missing(lambda: fetch(repository))


def test_one_of_several_files_of_a_split_is_not_the_split(filled, cache, attempts):
    data = snapshot(cache, FULL.dataset) / "data"
    (data / "train-00000-of-00001.parquet").rename(data / "train-00000-of-00002.parquet")
    assert in_cache(FULL.dataset) is None


def test_prefetch_without_a_network_says_so(cache, attempts, capsys):
    assert prefetch(FULL) == 1
    assert re.search("google/vit-base-patch16-224 cannot be fetched: the hub cannot be reached "
                     r"\((ConnectError|gaierror)\): look at the network", capsys.readouterr().out)
    assert [path for path in cache.rglob("*") if path.is_file()] == []


# --- prefetch, from a hub that is a folder -----------------------------------------------------

class FakeHub:
    """A filled cache plays the hub: downloads copy from it. breaks_after: files until the line
    is cut. copied: names of the files that were downloaded."""

    def __init__(self, remote, monkeypatch):
        self.remote, self.copied, self.breaks_after = remote, [], None
        self.real = huggingface_hub.snapshot_download
        monkeypatch.setattr(huggingface_hub, "snapshot_download", self.snapshot_download)
        monkeypatch.setattr(huggingface_hub.HfApi, "repo_info",
                            lambda *args, **settings: SimpleNamespace(sha="0" * 40))

    def snapshot_download(self, repo_id, *, repo_type, revision, allow_patterns, cache_dir=None,
                          local_files_only=False, dry_run=False):
        if local_files_only:
            return self.real(repo_id, repo_type=repo_type, revision=revision, cache_dir=cache_dir,
                             allow_patterns=allow_patterns, local_files_only=True)
        source = next(self.remote.glob(f"*{repo_id.replace('/', '--')}/snapshots/*"))
        cache = Path(cache_dir or huggingface_hub.constants.HF_HUB_CACHE)
        target = cache / source.relative_to(self.remote)
        files = [f.relative_to(source) for f in sorted(source.rglob("*")) if f.is_file()]
        if dry_run:
            return [SimpleNamespace(filename=str(f), file_size=(source / f).stat().st_size,
                                    will_download=not (target / f).exists()) for f in files]
        shutil.copytree(source.parents[1] / "refs", target.parents[1] / "refs",
                        dirs_exist_ok=True)
        for file in files:
            if (target / file).exists():
                continue
            if self.breaks_after == len(self.copied):
                raise ConnectionError("the line was cut")
            (target / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source / file, target / file)
            self.copied.append(str(file))
        return str(target)


@pytest.fixture
def fake_hub(filled, cache, tmp_path, monkeypatch):
    """What `filled` made becomes the hub; the cache is an empty folder again."""
    remote = tmp_path / "remote"
    cache.rename(remote)
    cache.mkdir()
    return FakeHub(remote, monkeypatch)


def test_prefetch_says_all_sizes_before_it_starts_and_then_fetches(fake_hub, capsys):
    assert prefetch(FULL) == 0
    lines = capsys.readouterr().out.strip().split("\n")
    first = next(i for i, line in enumerate(lines) if line.startswith("[1/3]"))
    sizes = [int(re.search(r": (\d+) MB in \d+ files, 0 files are there", line)[1])
             for line in lines[:3]]
    assert first == 4 and re.match(r"\d+ MB to download into .*, where \d+ MB are free", lines[3])
    assert abs(sum(sizes) - int(lines[3].split()[0])) <= 2
    assert lines[-1] == "everything is there"
    assert all(in_cache(repository) for repository in repositories(FULL))


def test_an_interrupted_prefetch_goes_on_where_it_stopped(fake_hub, capsys):
    fake_hub.breaks_after = 4
    assert prefetch(FULL) == 1
    assert "files that have arrived are kept" in capsys.readouterr().out
    fake_hub.breaks_after = None
    assert prefetch(FULL) == 0
    said = capsys.readouterr().out
    assert re.search(r"[1-9]\d* files are there|in the cache", said)
    per_repository = sum(len(list(r.glob("**/snapshots/*/**/*.*"))) for r in [fake_hub.remote])
    assert len(fake_hub.copied) == per_repository       # each file once


def test_control_c_ends_a_prefetch_with_a_sentence(fake_hub, monkeypatch, capsys):
    def interrupt(*arguments):
        raise KeyboardInterrupt
    monkeypatch.setattr(prefetch_module, "_download", interrupt)
    assert prefetch(FULL) == 1
    assert capsys.readouterr().out.endswith(
        "interrupted: run the same command again: files that have arrived are kept\n")


def test_a_disk_that_is_too_small_is_said_before_anything_is_downloaded(fake_hub, monkeypatch,
                                                                       capsys):
    monkeypatch.setattr(prefetch_module, "free_bytes", lambda folder: 1000)
    assert prefetch(FULL) == 1
    assert "not enough: make room" in capsys.readouterr().out and fake_hub.copied == []


def test_a_damaged_file_is_fetched_anew(fake_hub, cache, capsys):
    assert prefetch(FULL) == 0
    weights = snapshot(cache, FULL.language_model) / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-100])
    assert damaged(weights.parent) == ["model.safetensors"]
    fake_hub.copied.clear()
    assert prefetch(FULL) == 0
    assert "model.safetensors is damaged" in capsys.readouterr().out
    assert fake_hub.copied == ["model.safetensors"] and weights.read_bytes() == whole


def test_announcing_removes_nothing(fake_hub, cache, monkeypatch, capsys):
    """A damaged file that cannot be fetched again, for lack of room, may still be worth having."""
    assert prefetch(FULL) == 0
    weights = snapshot(cache, FULL.language_model) / "model.safetensors"
    cut = weights.read_bytes()[:-100]
    weights.write_bytes(cut)
    monkeypatch.setattr(prefetch_module, "free_bytes", lambda folder: 1000)
    assert prefetch(FULL) == 1
    said = capsys.readouterr().out
    assert "model.safetensors is damaged" in said and " MB in 1 files, " in said
    assert weights.read_bytes() == cut


@pytest.mark.parametrize("damage_of", ["a linked file", "a file of a linked folder"])
def test_prefetch_removes_no_file_outside_its_folder(fake_hub, tmp_path, capsys, damage_of):
    """A trap: to remove what a link points to is right in the hub's cache, and nowhere else."""
    stick, outside = tmp_path / "stick", tmp_path / "outside"
    assert prefetch(FULL, stick) == 0
    outside.mkdir()
    if damage_of == "a linked file":
        link = snapshot(stick, FULL.language_model) / "model.safetensors"
        mine = outside / "mine.safetensors"
    else:
        link = snapshot(stick, FULL.dataset) / "data"
        mine = outside / "mine" / "test-00000-of-00001.parquet"
    link.rename(outside / f"mine{link.suffix}")
    link.symlink_to(outside / f"mine{link.suffix}")
    mine.write_bytes(mine.read_bytes()[:-10])
    kept = mine.read_bytes()
    result = prefetch(FULL, stick)
    assert mine.read_bytes() == kept
    said = capsys.readouterr().out
    if damage_of == "a linked file":
        assert result == 0 and not link.is_symlink() and in_cache(FULL.language_model, stick)
    else:
        assert result == 1 and f"lies outside {stick}" in said and "remove it yourself" in said


def test_a_cached_data_set_is_found_below_a_folder_with_brackets(filled, cache, tmp_path,
                                                                 monkeypatch, attempts):
    """`datasets` takes a file's name for a pattern."""
    moved = cache.rename(tmp_path / "hub [of mine] *")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(moved))
    assert len(load_image_table(FULL, "test")) == ROWS["test"]


def test_a_caption_of_the_data_set_gives_no_commands(cache, attempts):
    from datasets import Dataset
    write_flickr(into_hub_cache(cache, FULL.dataset), ROWS)
    file = snapshot(cache, FULL.dataset) / "data" / "test-00000-of-00001.parquet"
    rows = Dataset.from_parquet(str(file))
    Dataset.from_list([row | {"caption_0": "A sign: <image_2>."} for row in rows],
                      features=rows.features).to_parquet(file)
    captions = load_image_table(FULL, "test").truth.captions
    assert captions[0][0] == "A sign: <\u2060image_2>." and captions[0][1].startswith("A test dog")


def test_a_folder_can_be_carried_to_a_machine_without_a_network(fake_hub, cache, tmp_path,
                                                               monkeypatch, attempts, capsys):
    stick = tmp_path / "stick"
    assert prefetch(FULL, stick) == 0
    assert f"set HF_HUB_CACHE to its copy of {stick}" in capsys.readouterr().out
    assert [path for path in cache.rglob("*") if path.is_file()] == []
    carried = tmp_path / "carried"
    shutil.copytree(stick, carried)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(carried))
    assert prefetch(FULL) == 0
    assert all(carried in fetch(each).parents for each in repositories(FULL))
    assert len(load_image_table(FULL, "test")) == ROWS["test"]
    assert attempts == []


def test_the_command_fetches_the_full_profile_unless_another_is_named(monkeypatch, tmp_path):
    from vlm_utils import __main__ as command
    asked = []
    monkeypatch.setattr(prefetch_module, "prefetch", lambda *given: asked.append(given) or 0)
    monkeypatch.setattr("sys.argv", ["vlm_utils", "prefetch", "--folder", str(tmp_path)])
    assert command.main() == 0
    monkeypatch.setenv("VLM_PROFILE", "tiny")
    monkeypatch.setattr("sys.argv", ["vlm_utils", "prefetch"])
    assert command.main() == 0
    assert asked == [(FULL, tmp_path), (get_profile("tiny"), None)]


# --- the real shapes ---------------------------------------------------------------------------

@pytest.mark.slow
def test_the_real_shapes_load_and_have_135_291_456_trainable_parameters(cache, attempts, picture):
    """ViT-B/16 and SmolLM-135M with random weights, counted without new tokens."""
    torch.manual_seed(0)
    tokenizer = filled_tokenizer(49_152)
    text = LlamaConfig(
        hidden_size=576, num_hidden_layers=30, num_attention_heads=9, num_key_value_heads=3,
        intermediate_size=1536, vocab_size=49_152, tie_word_embeddings=True,
        max_position_embeddings=2048, bos_token_id=0, eos_token_id=0)
    write_parts(cache, FULL, ViTForImageClassification(ViTConfig()), LlamaForCausalLM(text),
                tokenizer)
    model, processor = load_base_model(replace(FULL, merge_factor=1))
    assert attempts == []
    new_rows = len(processor.tokenizer) - 49_152
    assert new_rows == 1 + FULL.max_images
    counts = count_parameters(model)
    assert counts["whole model"]["trainable"] - new_rows * 576 == 135_291_456
    assert counts["vision_encoder"]["trainable"] == 0
    sample = Sample([picture(i, (300, 224)) for i in range(2)], "<image><image>What changed?",
                    "Nothing changed.", "compare")
    batch = batch_of([sample], processor)
    assert batch["pixel_values"].shape == (2, 3, 224, 224)
    assert (batch["input_ids"] == processor.image_token_id).sum() == 2 * 196
    with torch.no_grad():
        assert model(**batch).loss.isfinite()
