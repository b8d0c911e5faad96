"""The benchmarks run and report, and what they compare computes the same."""

import json
import math
import os
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from small_models import batch_of

from vlm_utils.profiles import REPOSITORY

FOLDER = REPOSITORY / "benchmarks"


@pytest.fixture(autouse=True)
def _benchmarks_importable(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))


@pytest.fixture
def samples(make_sample):
    return [make_sample(3, seed=1), make_sample(2, "Which image shows: a lake?", "<image_2>", 2),
            make_sample(1, "Describe the image.", "A lake.", seed=3)]


@pytest.fixture
def patches_only(make_model):
    """The naive model on the parts of a small one, without the class token, and ours beside it."""
    import naive

    from vlm_utils.architecture import join_parts

    class PatchesOnly(naive.NaiveVLM):
        def encode(self, image):
            return super().encode(image)[1:]

    parts = make_model()
    ours = join_parts(
        parts.vision_encoder, parts.language_model, merge_factor=1, max_images=8,
        image_token_id=parts.config.image_token_id).freeze_vision_encoder().eval()
    model = PatchesOnly(parts.vision_encoder, parts.language_model).eval()
    torch.nn.init.ones_(model.projector[-1].weight)     # image tokens as loud as words
    ours.projector.layers.load_state_dict(model.projector.state_dict())
    return model, ours


@pytest.fixture
def same_layout(make_processor):
    return make_processor(tokens_per_image=16, layout="prepended", identifiers="none")


def as_naive_reads(samples, processor):
    """Batches of the same three images a sample, the missing ones zeros, for naive and for ours."""
    import naive

    from vlm_utils.collate import fill_with_black_images
    theirs = naive.collate(samples, processor.tokenizer, processor.image_processor)
    batch = batch_of(fill_with_black_images(samples, 3), processor)
    batch["pixel_values"] = theirs["pixel_values"].flatten(0, 1)     # (batch * 3, 3, side, side)
    return theirs, batch


def test_with_the_same_layout_and_tokens_ours_has_the_loss_of_the_naive(
        patches_only, same_layout, samples):
    naive_model, ours = patches_only
    theirs, batch = as_naive_reads(samples, same_layout)
    expected = naive_model(**theirs)
    assert ours(**batch).loss.item() == pytest.approx(expected.item(), abs=1e-5)
    # Not because the images are silent: other pictures, another loss.
    turned = theirs | {"pixel_values": theirs["pixel_values"].flip(-1)}
    assert abs(naive_model(**turned).item() - expected.item()) > 1e-3


def test_with_the_same_layout_and_tokens_ours_has_the_gradients_of_the_naive(
        patches_only, same_layout, samples):
    naive_model, ours = patches_only
    theirs, batch = as_naive_reads(samples, same_layout)
    naive_model(**theirs).backward()
    expected = [p.grad.clone() for p in naive_model.language_model.parameters()]
    naive_model.zero_grad()
    ours(**batch).loss.backward()
    for parameter, gradient in zip(ours.language_model.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, atol=1e-5, rtol=1e-4)
    for mine, other in zip(ours.projector.parameters(), naive_model.projector.parameters(),
                           strict=True):
        assert other.grad is None and mine.grad.abs().sum() > 0


def test_features_encoded_once_give_the_same_loss(patches_only, same_layout, samples):
    _, ours = patches_only
    _, batch = as_naive_reads(samples, same_layout)
    expected = ours(**batch).loss.item()
    features = ours.encode_images(batch.pop("pixel_values"))
    assert ours(**batch, image_features=features).loss.item() == pytest.approx(expected, abs=1e-5)
    half = ours(**batch, image_features=features.half()).loss.item()       # as they are kept
    assert half == pytest.approx(expected, abs=1e-2)


def test_the_naive_generation_says_what_the_cache_says(patches_only, same_layout, samples):
    """The whole sequence read again for each token, or keys and values kept: the same answer."""
    import naive

    naive_model, ours = patches_only
    sample = samples[0]
    pixels = naive.load_pixels(sample.images, same_layout.image_processor)
    prompt, _ = naive.encode_text(sample, same_layout.tokenizer)
    expected = naive_model.generate(pixels.unsqueeze(0), torch.tensor([prompt]), new_tokens=12)
    batch = batch_of([sample], same_layout, for_generation=True)
    answer = ours.generate(**batch, max_new_tokens=12, do_sample=False, eos_token_id=-1,
                           pad_token_id=same_layout.pad_token_id)
    assert answer[0].tolist() == expected


def test_llava_reads_the_same_texts(make_model, same_layout, samples):
    """As many placeholders and as many answer tokens as ours, and a loss that is a number."""
    import library

    parts = make_model()
    processor = library.make_processor(same_layout.tokenizer, same_layout.image_processor, 16)
    model = library.make_llava(parts.vision_encoder, parts.language_model, same_layout.tokenizer)
    theirs = library.collate(samples, processor)
    ours = batch_of(samples, same_layout)
    for name in ("input_ids", "attention_mask", "labels"):
        torch.testing.assert_close(theirs[name], ours[name])
    torch.testing.assert_close(theirs["pixel_values"], ours["pixel_values"])
    assert math.isfinite(model(**theirs).loss.item())
    assert library.answer(model, samples[0], processor, new_tokens=3).shape[0] == 1


def test_a_text_too_long_for_the_naive_is_refused(processor, make_sample):
    import naive
    long = make_sample(1, "What changed? " * 100)
    with pytest.raises(ValueError, match="sample 0 is .* tokens long: 128 are the most"):
        naive.collate([long], processor.tokenizer, processor.image_processor)


def test_patches_are_averaged_in_their_places():
    from common import pool_patches
    features = torch.arange(16.0).view(1, 16, 1)                      # 4 x 4 patches
    assert pool_patches(features, 2).flatten().tolist() == [2.5, 4.5, 10.5, 12.5]
    assert pool_patches(torch.rand(2, 196, 5), 8).shape == (2, 64, 5)
    assert pool_patches(features, None) is features


def test_a_straight_line_is_linear():
    from scaling import NUMBERS, growth, steepening
    tokens = [50 * n + 20 for n in NUMBERS]
    line = [3.0 + 0.1 * t for t in tokens]
    assert growth(tokens, line) < 1
    assert steepening(tokens, line) == pytest.approx(1)
    assert steepening(tokens, [t**2 for t in tokens]) > 3
    assert growth(tokens, [t**2 for t in tokens]) > 1


WORK = """
import os

def fails(turn):
    turn({"seconds": 1.0})
    raise ValueError("out of pictures")

def rests(turn):
    turn({})

def dies(turn):
    turn({})
    os._exit(3)
"""


@pytest.fixture
def work(tmp_path, monkeypatch):
    """Work for another process, in a module of its own.

    A new process imports the module of what it is to do. If that were this test module, it would
    also import pytest, conftest and all that they need, whatever state those files are in.
    """
    (tmp_path / "work_of_a_worker.py").write_text(WORK, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    import work_of_a_worker
    yield work_of_a_worker
    del sys.modules["work_of_a_worker"]     # the next test has another folder


def test_a_worker_hands_over_results_and_errors(work):
    from workers import Worker
    worker = Worker(work.fails)
    first = worker.next()
    assert first["seconds"] == 1.0 and first["peak_mb"] > 1
    with pytest.raises(RuntimeError, match="out of pictures"):
        worker.next()
    worker.stop()


def test_a_worker_that_dies_is_named_with_its_exit_code(work):
    """A process that the system ends, for want of memory, sends no error and must not hang."""
    from workers import Worker
    worker = Worker(work.dies)
    worker.next()
    for _ in range(2):      # it stays dead
        with pytest.raises(RuntimeError, match=r"without a result \(exit code 3\)"):
            worker.next()
    worker.stop()


def test_a_worker_is_not_charged_with_the_memory_of_its_parent(work):
    """A trap on Linux: the maximum of getrusage starts with that of the process that started it."""
    from workers import Worker

    def peak() -> float:
        worker = Worker(work.rests)
        found = worker.next()["peak_mb"]
        worker.stop()
        return found

    alone = peak()
    ballast = np.ones(75_000_000)           # 600 MB, each page written to
    assert peak() < alone + 100
    assert ballast[-1] == 1


# --- each benchmark, small and short -----------------------------------------------------------

PROMISED = {"benchmark", "settings", "ratios", "plot", "machine", "shapes"}


def run(name, tmp_path, *options):
    """The last line of a benchmark, read as JSON."""
    done = subprocess.run(
        [sys.executable, str(FOLDER / f"{name}.py"), "--scale", "tiny", "--device", "cpu",
         *options], capture_output=True, text=True, cwd=tmp_path,
        env=os.environ | {"VLM_OUTPUT": str(tmp_path), "PYTHONPATH": str(REPOSITORY)})
    assert done.returncode == 0, done.stdout + done.stderr
    line = json.loads(done.stdout.splitlines()[-1])
    assert line["benchmark"] == name and PROMISED <= set(line)
    assert line["settings"]["scale"] == "tiny" and line["settings"]["device"] == "cpu"
    plot = tmp_path / "benchmarks" / line["plot"]
    assert plot.read_bytes().startswith(b"\x89PNG")
    assert all(value > 0 for value in line["ratios"].values() if value is not None)
    return line


def test_training_reports(tmp_path):
    line = run("training", tmp_path, "--passes", "2")
    assert {"speed_9_tokens_over_naive", "speed_4_tokens_over_naive",
            "speed_over_library_both_36_tokens", "peak_memory_of_naive_9_tokens",
            "speed_9_tokens_checkpointed_over_naive",
            "peak_memory_of_naive_9_tokens_checkpointed",
            "peak_memory_of_naive_9_tokens_checkpointed_adafactor"} \
        <= set(line["ratios"])
    variants = {"naive", "library", "ours 36", "ours 9", "ours 4",
                "ours 9, checkpointed", "ours 9, checkpointed, adafactor"}
    for key in ("samples_per_second", "peak_mb", "losses", "seconds_per_pass"):
        assert set(line[key]) == variants
    for losses in line["losses"].values():
        assert all(map(math.isfinite, losses)) and losses[-1] < losses[0]


def test_generation_reports(tmp_path):
    line = run("generation", tmp_path, "--rounds", "1", "--new-tokens", "3", "--batch", "4")
    assert {"one_answer_9_tokens_over_naive", "one_answer_9_tokens_over_library",
            "batch_over_one_by_one_encoded", "batch_over_one_by_one_from_pictures"} \
        <= set(line["ratios"])
    assert all(len(values) == 1 for values in line["seconds"].values())


def test_scaling_reports(tmp_path):
    line = run("scaling", tmp_path, "--rounds", "1", "--most", "2")
    assert line["images"] == [1, 2] and line["tokens"] == sorted(line["tokens"])
    assert {f"{what}_{kind}_growth_over_tokens_growth" for what in ("step", "answer")
            for kind in ("seconds", "memory")} <= set(line["ratios"])


@pytest.mark.parametrize("name", ["training", "generation", "scaling"])
def test_the_readme_says_how_to_run(name):
    readme = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert re.search(rf"python benchmarks/{name}\.py --scale real --device cpu", readme)


def test_memory_of_the_full_profile_reports():
    """With tiny shapes and few samples: each part runs, and its peak is a number."""
    done = subprocess.run([sys.executable, "full_memory.py", "--scale", "tiny", "--fewer", "16"],
                          cwd=FOLDER, capture_output=True, text=True,
                          env=os.environ | {"PYTHONPATH": str(REPOSITORY)})
    assert done.returncode == 0, done.stderr
    rows = [line.rsplit(maxsplit=2) for line in done.stdout.splitlines()[1:]]
    assert [(name.strip(), samples) for name, samples, _ in rows] == [
        ("training step", "2"), ("evaluation", "8"), ("selections of eight", "6")]
    assert all(float(peak) > 100 for *_, peak in rows)
