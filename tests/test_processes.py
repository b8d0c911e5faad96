"""Two processes train one model: real ones, that talk over the loopback (gloo)."""

import json
import os
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from process_work import (
    PLAIN,
    SHORT,
    adapted,
    beside,
    beside_run,
    losses,
    plain_run,
    resumed,
    with_texts,
)
from safetensors import safe_open
from small_models import beside_sequence, small_base
from small_runs import interrupt_after, small_dataset, small_processor

from vlm_utils.collate import LengthGroupedSampler, collate
from vlm_utils.cross_attention import CrossAttentionVLM
from vlm_utils.datasets import encode_samples
from vlm_utils.evaluation import evaluate, predict
from vlm_utils.loading import load_checkpoint
from vlm_utils.profiles import REPOSITORY
from vlm_utils.scaling import Shards, predict_together, same_everywhere, together
from vlm_utils.sources import folders
from vlm_utils.sources.checkpoints import find_checkpoints
from vlm_utils.training import resume_run
from vlm_utils.training.processes import in_first_process
from vlm_utils.training.run import ShareOfEachBatch

pytestmark = pytest.mark.skipif(
    not torch.distributed.is_available() or not torch.distributed.is_gloo_available()
    or sys.platform == "win32", reason="no gloo here, by which processes on a CPU talk")
EQUAL = {"rtol": 1e-5, "atol": 1e-5}        # float32: sums in another order
PAIRS = replace(PLAIN, batch_size=2, steps=12, window=1)


def work_of_two(place: str) -> dict:
    """All that two processes are asked to do in these tests: they are started once."""
    import errno
    from contextlib import nullcontext
    from dataclasses import replace
    from pathlib import Path
    from unittest.mock import patch

    from process_work import (
        PLAIN,
        SHORT,
        adapted,
        beside,
        beside_run,
        losses,
        plain_run,
        resumed,
        with_texts,
        without_a_word,
    )
    from small_models import small_base
    from small_runs import interrupt_after, small_dataset, small_processor
    from torch.distributed.checkpoint import FileSystemWriter

    from vlm_utils.scaling import Shards, evaluate_together, predict_together, same_everywhere
    from vlm_utils.scaling.sharding import held_bytes
    from vlm_utils.sources import folders
    from vlm_utils.training import train

    place, found = Path(place), {}
    run = plain_run()
    found["drawn"] = [i for batch in run.loader.batch_sampler for i in batch]
    run.loader.batch_sampler.batch_sampler.epoch = 0
    found["copies"] = train(run, place / "copies")["loss"].tolist()
    found["same"] = same_everywhere(run.accelerator, run.model.parameters())
    with_rank = [p + run.accelerator.process_index for p in run.model.projector.parameters()]
    found["not the same"] = same_everywhere(run.accelerator, with_rank)
    questions = replace(small_dataset(), recipes=small_dataset().recipes[:13])
    found["answers"] = predict_together(run.accelerator, run.model, small_processor(), questions,
                                        max_new_tokens=3).to_dict("list")
    found["accuracy"] = evaluate_together(run.accelerator, run.model, small_processor(), questions,
                                          max_new_tokens=3).to_dict("list")
    found["one question"] = len(predict_together(
        run.accelerator, run.model, small_processor(),
        replace(questions, recipes=questions.recipes[:1]), max_new_tokens=1))
    found["five"] = losses(replace(PLAIN, batch_size=5, accumulation=2, steps=3))
    pairs = replace(PLAIN, batch_size=2, steps=12, window=1)
    found["texts"] = losses(pairs, dataset=with_texts())
    found["texts, beside"] = beside(pairs)
    found["texts, encoder trains"] = losses(
        pairs, model=small_base(small_processor()).requires_grad_(True),
        dataset=with_texts(encoded=False))

    run = plain_run(layout=Shards())
    found["shards"] = train(run, place / "shards")["loss"].tolist()
    found["held"] = held_bytes(run.model, run.optimizer.optimizer)
    found["texts, shards"] = losses(pairs, dataset=with_texts(), layout=Shards())
    found["muon"] = [losses(replace(SHORT, optimizer="muon"), layout=layout)
                     for layout in (None, Shards())]
    found["beside, shards"] = beside(
        dataset=small_dataset(), folder=place / "beside", layout=Shards())
    found["beside held"] = held_bytes(beside_run(layout=Shards()).model)
    found["texts, beside, shards"] = beside(pairs, layout=Shards())
    beside(dataset=small_dataset(), folder=place / "beside for one", on_step=interrupt_after(5),
           layout=Shards())
    for name, layout in (("copies", None), ("shards", Shards())):
        for half in (False, True):
            found[f"adapter, {name}, {half}"] = without_a_word(
                lambda name=name, half=half, layout=layout: adapted(
                    place / "base", half, place / f"adapter {name} {half}", layout=layout))
        folder = place / f"{name} stopped"
        losses(folder=folder, on_step=interrupt_after(5), layout=layout)
        other = Shards() if layout is None else None
        found[f"{name} refused"] = without_a_word(
            lambda folder=folder, other=other: resumed(folder, layout=other))
        # For one process to go on from:
        losses(folder=place / f"{name} for one", on_step=interrupt_after(5), layout=layout)
        found[f"{name} resumed"] = resumed(folder, layout=layout)

    (place / "a file").write_text("")
    found["no place"] = without_a_word(lambda: losses(folder=place / "a file"))

    def full(*arguments):
        raise OSError(errno.ENOSPC, "the disk is full")

    with patch.object(folders, "seal", full):
        found["disk full"] = without_a_word(lambda: losses(folder=place / "full"))
    if run.accelerator.process_index == 1:
        failing = patch.object(FileSystemWriter, "write_data", full)
    else:
        failing = nullcontext()
    with failing:
        found["disk full, shards"] = without_a_word(
            lambda: losses(folder=place / "full shards", layout=Shards()))
    found["left"] = sorted(path.name for path in place.iterdir() if "full" in path.name)
    found["too few"] = without_a_word(lambda: losses(replace(PLAIN, batch_size=1)))
    return found


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """What each of two processes saw, and the folder in which they worked."""
    place = tmp_path_factory.mktemp("two")
    small_base(small_processor()).save_pretrained(place / "base")
    small_processor().save_pretrained(place / "base")
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("PYTHONPATH", str(Path(__file__).parent))
        patched.setenv("OMP_NUM_THREADS", "1")
        return together(work_of_two, 2, place=str(place)), place


def test_two_processes_have_the_losses_of_one_with_the_same_batches(two):
    (first, second), _ = two
    assert first["copies"] == second["copies"]
    np.testing.assert_allclose(first["copies"], losses(), **EQUAL)


def test_a_batch_that_does_not_divide_evenly_is_weighed_right(two):
    """5 samples are 3 and 2: a mean of two means would count the 2 for more."""
    (first, second), _ = two
    assert first["five"] == second["five"]
    alone = losses(replace(PLAIN, batch_size=5, accumulation=2, steps=3))
    np.testing.assert_allclose(first["five"], alone, **EQUAL)


def test_all_processes_end_with_the_same_parameters(two):
    for found in two[0]:
        assert found["same"] and not found["not the same"]


def test_each_sample_is_drawn_once_an_epoch_by_one_process(two):
    first, second = (found["drawn"] for found in two[0])
    alone = [i for batch in plain_run().loader.batch_sampler for i in batch]
    assert len(first) == len(second) == 12
    assert not set(first) & set(second)
    assert sorted(first + second) == sorted(alone) and len(set(alone)) == len(alone)


def test_thirteen_samples_on_two_processes_are_thirteen_answers_in_order(two):
    (first, second), place = two
    model, processor = load_checkpoint(place / "copies")
    questions = replace(small_dataset(), recipes=small_dataset().recipes[:13])
    alone = predict(model, processor, questions, max_new_tokens=3)
    assert first["answers"] == second["answers"] == alone.to_dict("list")
    assert len(first["answers"]["task"]) == 13 and first["one question"] == 1
    summary = evaluate(model, processor, questions, max_new_tokens=3)
    for found in (first, second):
        pd.testing.assert_frame_equal(pd.DataFrame(found["accuracy"]), summary, check_dtype=False)
    assert summary["samples"].sum() == 13


# --- batches without images ------------------------------------------------------------------

@pytest.mark.parametrize("kind", ["texts", "texts, beside", "texts, encoder trains",
                                  "texts, shards", "texts, beside, shards"])
def test_a_process_without_images_does_not_hang_the_others(two, kind):
    (first, second), _ = two
    if "beside" in kind:
        alone = beside(PAIRS)
    elif kind == "texts, encoder trains":
        alone = losses(PAIRS, model=small_base(small_processor()).requires_grad_(True),
                       dataset=with_texts(encoded=False))
    else:
        alone = losses(PAIRS, dataset=with_texts())
    assert first[kind] == second[kind]
    np.testing.assert_allclose(first[kind], alone, rtol=1e-4, atol=1e-4)


def test_these_batches_are_such_as_would_hang_the_others():
    """Else the test above could pass without such a batch."""
    dataset = with_texts()
    run = plain_run(PAIRS, dataset=dataset)
    images = [[bool(dataset.recipes[i].rows) for i in batch]
              for batch in run.loader.batch_sampler.batch_sampler]
    assert sum(a != b for a, b in images[:PAIRS.steps]) >= 3


@pytest.mark.parametrize("encoder_trains", [False, True])
@pytest.mark.parametrize("make", [small_base, lambda p: beside_sequence(p, latents=3)[0]])
def test_every_trained_weight_has_a_gradient_if_there_are_no_images(make, encoder_trains):
    model = make(small_processor()).train()
    model.vision_encoder.requires_grad_(encoder_trains)
    assert without_gradient(model) == []


def test_without_its_cure_the_model_with_cross_attention_lacks_them(monkeypatch):
    monkeypatch.setattr(CrossAttentionVLM, "zero_times_unused", lambda self: 0.0)
    lacking = without_gradient(beside_sequence(small_processor(), latents=3)[0].train())
    assert any("projector" in name for name in lacking)
    assert any("cross_attention" in name for name in lacking)


def without_gradient(model) -> list[str]:
    """Trained weights that get no gradient from a batch of texts alone."""
    dataset = with_texts()
    texts = [dataset[i] for i, recipe in enumerate(dataset.recipes) if not recipe.rows][:2]
    batch = collate(encode_samples(texts, small_processor()), small_processor().pad_token_id)
    model(**batch).loss.backward()
    return [name for name, weight in model.named_parameters()
            if weight.requires_grad and weight.grad is None]


# --- checkpoints -------------------------------------------------------------------------------

@pytest.mark.parametrize("kind", ["copies", "shards"])
def test_two_go_on_from_their_checkpoint_to_the_same_losses_to_the_bit(two, kind):
    (first, second), place = two
    assert first[f"{kind} resumed"] == second[f"{kind} resumed"] == first[kind]
    (checkpoint,) = find_checkpoints(place / f"{kind} stopped")
    checkpoint.verify()
    assert checkpoint.finished and checkpoint.facts["processes"] == 2


@pytest.mark.parametrize(("kind", "layout"), [("copies", None), ("shards", Shards())])
def test_one_goes_on_over_the_same_data_where_two_have_stopped(two, kind, layout, tmp_path):
    (first, _), place = two
    shutil.copytree(place / f"{kind} for one.unfinished", tmp_path / "run.unfinished")
    with pytest.raises(ValueError, match="by 2 processes and there are 1 now.*other_processes"):
        resume_run(tmp_path / "run", small_dataset(), layout=layout)
    alone = resumed(tmp_path / "run", layout=layout, other_processes=True)
    np.testing.assert_allclose(alone, first[kind], **EQUAL)


def test_a_checkpoint_from_when_batches_were_those_of_one_process_is_refused(tmp_path):
    """Its batches were others: with another number of processes they would not be gone through."""
    losses(folder=tmp_path / "old", on_step=interrupt_after(5))
    (found,) = find_checkpoints(tmp_path / "old")
    (found.path / "checkpoint.json").unlink()
    facts = {name: value for name, value in found.facts.items()
             if name not in ("batch_size", "layout")}       # as versions before wrote them
    folders.seal(found.path, "checkpoint.json", facts | {"processes": 2})
    with pytest.raises(ValueError, match="2 processes.* 1 now; in that version .* one process"):
        resume_run(tmp_path / "old", small_dataset(), other_processes=True)


@pytest.mark.parametrize(("kind", "words"), [
    ("copies", "was trained in copies and is to go on in shards"),
    ("shards", "was trained in shards and is to go on in copies")])
def test_copies_do_not_go_on_as_shards_nor_shards_as_copies(two, kind, words):
    for found in two[0]:
        assert found[f"{kind} refused"].startswith("ValueError") \
            and words in found[f"{kind} refused"]


def test_what_keeps_the_first_process_from_saving_ends_the_others_too(two):
    (first, second), _ = two
    assert "is a file" in first["no place"]
    assert second["no place"] == f"OtherProcessFailed: {first['no place']}"
    assert first["disk full"] == "OSError: [Errno 28] the disk is full"
    assert second["disk full"] == "OtherProcessFailed: " + first["disk full"]
    assert first["disk full, shards"] == second["disk full, shards"] == (
        "OSError: process 1 could not write its share of the checkpoint: [Errno 28] the disk is "
        "full")
    assert first["left"] == []


def test_a_batch_smaller_than_the_processes_is_refused(two):
    for found in two[0]:
        assert "batch_size is 1, and 2 processes share each batch" in found["too few"]


# --- shards ------------------------------------------------------------------------------------

def test_shards_have_the_losses_of_one_process(two):
    (first, second), _ = two
    assert first["shards"] == second["shards"]
    np.testing.assert_allclose(first["shards"], losses(), **EQUAL)


def test_each_process_holds_half_of_what_is_trained(two):
    run = plain_run()
    trained = sum(p.nbytes for p in run.model.parameters() if p.requires_grad)
    for found in two[0]:
        held = found["held"]
        assert held["weights"] == pytest.approx(trained / 2, rel=0.01)
        assert held["optimizer"] == pytest.approx(trained, rel=0.01)        # two moments, halved
        assert held["frozen"] < 0.6 * sum(p.nbytes for p in run.model.vision_encoder.parameters())


def test_muon_orthogonalises_whole_matrices_in_shards_too(two):
    """A trap: of shares alone it would make other steps. Its bfloat16 sums differ a little."""
    copies, shards = two[0][0]["muon"]
    np.testing.assert_allclose(copies, losses(replace(SHORT, optimizer="muon")), rtol=3e-3)
    np.testing.assert_allclose(shards, copies, rtol=3e-3)


def test_the_checkpoint_of_shards_is_a_whole_model(two):
    _, place = two
    names = []
    for kind in ("copies", "shards"):       # tied weights are in the file once
        with safe_open(place / kind / "model.safetensors", "pt") as weights:
            names.append(set(weights.keys()))
    assert names[0] == names[1]
    whole, shards = (load_checkpoint(place / kind)[0].state_dict() for kind in ("copies", "shards"))
    for name, tensor in whole.items():
        torch.testing.assert_close(shards[name], tensor, rtol=1e-3, atol=1e-5)
    files = {path.name for path in (place / "shards" / "optimizer").iterdir()}
    assert {".metadata", "__0_0.distcp", "__1_0.distcp"} <= files


def test_the_model_with_cross_attention_in_shards_has_the_losses_of_one_process(two):
    (first, second), _ = two
    assert first["beside, shards"] == second["beside, shards"]
    np.testing.assert_allclose(first["beside, shards"], beside(dataset=small_dataset()), **EQUAL)


def test_of_the_model_with_cross_attention_each_process_holds_half_too(two):
    """A trap: the blocks are inside of layers that are cut before, and were left uncut. Nobody
    averaged their gradients, or the optimizer refused the mixture."""
    model = beside_run().model
    trained, frozen = (sum(p.nbytes for p in model.parameters() if p.requires_grad == does)
                       for does in (True, False))
    for found in two[0]:
        assert found["beside held"]["weights"] == pytest.approx(trained / 2, rel=0.01)
        assert found["beside held"]["frozen"] < 0.6 * frozen


def test_its_checkpoint_of_shards_is_a_whole_model_that_one_process_reads(two, tmp_path):
    """Gathered whole: the names and shapes of one process's, and its weights but for rounding."""
    _, place = two
    beside(dataset=small_dataset(), folder=tmp_path / "alone")
    alone, shards = (load_checkpoint(folder)[0]
                     for folder in (tmp_path / "alone", place / "beside"))
    assert isinstance(shards, CrossAttentionVLM)
    whole = alone.state_dict()
    assert {name: tensor.shape for name, tensor in shards.state_dict().items()} == {
        name: tensor.shape for name, tensor in whole.items()}
    assert any("cross_attention" in name for name in whole)
    for name, tensor in shards.state_dict().items():
        torch.testing.assert_close(tensor, whole[name], rtol=1e-3, atol=1e-5, msg=name)


def test_one_process_goes_on_where_two_have_stopped_with_its_shards(two, tmp_path):
    (first, _), place = two
    shutil.copytree(place / "beside for one.unfinished", tmp_path / "run.unfinished")
    alone = resumed(tmp_path / "run", layout=Shards(), other_processes=True)
    np.testing.assert_allclose(alone, first["beside, shards"], **EQUAL)


# --- adapters ----------------------------------------------------------------------------------

@pytest.mark.parametrize("kind", ["copies", "shards"])
def test_an_adapter_is_trained_and_saved_by_two_processes_as_by_one(two, kind, tmp_path):
    (first, second), place = two
    name = f"adapter, {kind}, False"
    assert first[name] == second[name]
    alone = adapted(place / "base", folder=tmp_path / "alone")
    np.testing.assert_allclose(first[name], alone, **EQUAL)
    expected, found = (load_checkpoint(folder)[0].state_dict() for folder in (
        tmp_path / "alone", place / f"adapter {kind} False"))
    for each, tensor in expected.items():
        torch.testing.assert_close(found[each], tensor, rtol=1e-3, atol=1e-5, msg=each)


@pytest.mark.parametrize("kind", ["copies", "shards"])
def test_an_adapter_on_a_base_in_half_precision_is_trained_by_two_processes_as_by_one(two, kind):
    (first, second), place = two
    name = f"adapter, {kind}, True"
    assert first[name] == second[name]
    np.testing.assert_allclose(first[name], adapted(place / "base", half=True), rtol=5e-3)


# --- one process --------------------------------------------------------------------------------

def test_shares_of_a_batch_are_the_batch():
    lengths = np.random.default_rng(0).integers(5, 30, 40)
    whole = list(LengthGroupedSampler(lengths, 8, seed=3))
    shares = [list(ShareOfEachBatch(LengthGroupedSampler(lengths, 8, seed=3), process, 3))
              for process in range(3)]
    for batch, *parts in zip(whole, *shares, strict=True):
        assert sorted(i for part in parts for i in part) == sorted(batch)
        assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_alone_nothing_is_shared_out():
    run = plain_run()
    assert same_everywhere(run.accelerator, run.model.parameters())
    questions = replace(small_dataset(), recipes=small_dataset().recipes[:3])
    run.leave_model()
    assert len(predict_together(run.accelerator, run.model, small_processor(), questions,
                                max_new_tokens=1)) == 3
    with pytest.raises(OSError, match="full"):
        in_first_process(run.accelerator, fails)


def fails(place: str = "") -> None:
    raise OSError("the disk is full")


def test_what_a_process_raises_is_told_by_the_one_who_started_it(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.path.dirname(__file__))
    with pytest.raises(RuntimeError, match="(?s)fails failed in 1 processes.*the disk is full"):
        together(fails, 1)


# --- the benchmark ------------------------------------------------------------------------------

@pytest.fixture
def benchmark(monkeypatch):
    monkeypatch.syspath_prepend(str(REPOSITORY / "benchmarks"))
    import processes
    yield processes
    for name in ("processes", "common"):
        sys.modules.pop(name, None)


def test_the_benchmark_measures_a_process(benchmark):
    found = benchmark.measure("tiny", batch_size=2, steps=3, layout="copies")
    assert len(found["step_seconds"]) == 2 and min(found["step_seconds"]) > 0
    assert found["cpu_seconds"] > 0 and found["bytes"]["optimizer"] > found["bytes"]["weights"]
    assert found["losses"][-1] < found["losses"][0]


def test_efficiency_is_the_time_of_one_over_p_times_that_of_p(benchmark):
    def rounds(seconds, cpu):
        return [{"step_seconds": seconds, "cpu_seconds": cpu, "bytes": {"weights": 3_000_000},
                 "others": 0.0}]
    one, two = benchmark.summarise({(1, "copies"): rounds([4.0, 5.0, 6.0], 12.0),
                                    (2, "copies"): rounds([3.0, 3.0, 99.0], 15.0)}, batch_size=10)
    assert (one["efficiency"], one["samples_per_second"], one["held_mb"]) == (1, 2, 3)
    assert two["efficiency"] == pytest.approx(5 / 6)
    assert two["cpu_efficiency"] == pytest.approx(12 / 15)


def test_the_stored_result_is_what_the_readme_says():
    stored = json.loads((REPOSITORY / "benchmarks" / "processes.json").read_text(encoding="utf-8"))
    page = (REPOSITORY / "benchmarks" / "README.md").read_text(encoding="utf-8")
    for row in stored["rows"]:
        efficiency, of_cpu = (f"{row[name]:.2f}".removesuffix(".00")
                              for name in ("efficiency", "cpu_efficiency"))
        assert (f"| {row['processes']} | {row['layout']} | {row['step_seconds']:.1f} | "
                f"{row['samples_per_second']:.2f} | {efficiency} | {of_cpu} | "
                f"{row['held_mb']:,.0f} |") in page
