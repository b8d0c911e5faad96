"""On a GPU: features, losses, answers and memory, beside what a CPU computes. `.github/workflows/
gpu.yml` runs it; elsewhere it is skipped."""

from dataclasses import replace

import pytest
import torch
from small_runs import SETTINGS, losses_of, resumed_losses, small_run

from vlm_utils.answering import answer_sample, answer_samples
from vlm_utils.cross_attention import ask
from vlm_utils.datasets import Sample, build_tasks, load_image_table
from vlm_utils.loading import load_checkpoint
from vlm_utils.profiles import data_folder, get_device, get_profile, half_precision
from vlm_utils.training import encode_table

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
# What two kinds of half precision leave of a number: float16 has 11 bits, bfloat16 has 8.
KINDS = {"fp16": (torch.float16, 0.02), "bf16": (torch.bfloat16, 0.05)}
DESIGNS = ("tiny_vlm", "tiny_vlm_cross")        # images in the sequence, and beside it
CLOSE = 0.97                                    # of answers that may not turn on a rounded number


def of_kind(kind: str):
    """Its type and its tolerance; skipped on a GPU that only imitates it."""
    if kind == "bf16" and half_precision() == "fp16":
        pytest.skip("this GPU has no bfloat16")
    return KINDS[kind]


@pytest.fixture(scope="module")
def table():
    return load_image_table(get_profile("tiny"), "test")


@pytest.fixture(scope="module")
def samples(table):
    asked = build_tasks(table, {"select 3": 24, "compare 2": 24, "sequence 4": 24, "refer 3": 24},
                        seed=5)
    return [asked[i] for i in range(len(asked))]


def answers_of(name: str, samples, device, dtype=torch.float32) -> list[str]:
    model, processor = load_checkpoint(data_folder() / name)
    return answer_samples(model.to(device, dtype), processor, samples)


@pytest.fixture(scope="module", params=DESIGNS)
def on_a_cpu(request, samples):
    return request.param, answers_of(request.param, samples, "cpu")


def test_a_model_answers_on_a_gpu_as_it_does_on_a_cpu(on_a_cpu, samples):
    name, expected = on_a_cpu
    answers = answers_of(name, samples, get_device())
    assert sum(map(str.__eq__, answers, expected)) / len(expected) >= CLOSE


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_in_half_precision_answers_as_in_float32(on_a_cpu, samples, kind):
    """A trap: one pixel tensor or mask of float32 among half weights, and nothing is computed."""
    name, expected = on_a_cpu
    answers = answers_of(name, samples, get_device(), of_kind(kind)[0])
    assert sum(map(str.__eq__, answers, expected)) / len(expected) >= CLOSE


@pytest.mark.parametrize("name", DESIGNS)
def test_many_questions_about_the_same_images_on_a_gpu(name, samples):
    model, processor = load_checkpoint(data_folder() / name)
    model = model.to(get_device())
    images = samples[0].images
    questions = [f"Which image shows: {what}?" for what in ("a lake", "a road", "a forest")]
    alone = [answer_sample(model, processor, Sample(
        images, "<image>" * len(images) + question, None, "select")) for question in questions]
    assert ask(model, processor, images, questions) == alone


@pytest.mark.parametrize("name", DESIGNS)
def test_features_of_a_gpu_are_those_of_a_cpu(name, table, tmp_path):
    found = {}
    for device in ("cpu", get_device()):
        model, processor = load_checkpoint(data_folder() / name)
        features = encode_table(table, model.to(device), processor, folder=tmp_path / str(device))
        found[str(device)] = features[list(range(64))].float()
    first, second = found.values()
    assert torch.allclose(first, second, atol=0.02, rtol=0.01)
    assert first.std() > 0.1


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("kind", KINDS)
def test_half_precision_learns_as_float32_does(kind, optimizer):
    _, tolerance = of_kind(kind)
    settings = replace(SETTINGS, optimizer=optimizer)
    exact = losses_of(run_on_gpu(settings))
    half = losses_of(run_on_gpu(replace(settings, precision=kind)))
    assert half == pytest.approx(exact, rel=tolerance) and half != exact
    assert half[-1] < half[0]


def run_on_gpu(settings):
    """A small run without dropout, whose random numbers would differ between two precisions."""
    run = small_run(settings, device=get_device(), dropout=0.0)
    assert all(parameter.is_cuda for parameter in run.model.parameters())
    return run


@pytest.mark.parametrize("kind", ["no", *KINDS])
def test_a_resumed_run_goes_on_with_the_losses_of_the_straight_one(kind, tmp_path):
    if kind != "no":
        of_kind(kind)
    settings = replace(SETTINGS, precision=kind)
    straight = losses_of(run_on_gpu(settings))

    def stop(row):
        if row["step"] == 6:
            raise KeyboardInterrupt
    losses_of(run_on_gpu(settings), tmp_path / "run", stop)
    assert resumed_losses(tmp_path / "run") == pytest.approx(straight, rel=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_leaves_half_precision_as_it_came(kind):
    of_kind(kind)
    run = run_on_gpu(replace(SETTINGS, precision=kind, steps=2))
    losses_of(run)
    assert {parameter.dtype for parameter in run.model.parameters()} == {torch.float32}
    assert not hasattr(run.model.forward, "__wrapped__") and not run.model.training
