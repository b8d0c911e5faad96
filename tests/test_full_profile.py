"""The full profile without hub and GPU: lessons on a miniature hub, subsets, half precision."""

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import nbformat
import pytest
import torch
import yaml
from accelerate import Accelerator
from hub_cache import write_miniature
from small_runs import SETTINGS, losses_of, resumed_losses, small_run
from torch.utils._python_dispatch import TorchDispatchMode

from vlm_utils.answering import answer_samples
from vlm_utils.course.cells import lessons as all_lessons
from vlm_utils.course.conditions import check_note, stored_outputs_are_meant
from vlm_utils.datasets import build_tasks, is_free_text, load_image_table
from vlm_utils.datasets.subset import choose_subset
from vlm_utils.evaluation import shuffled, with_unrelated
from vlm_utils.loading import lesson_checkpoint
from vlm_utils.profiles import (
    PROFILES,
    REPOSITORY,
    SMALLEST_SUBSET,
    TrainingSettings,
    get_profile,
    half_precision,
)

ROWS = {"train": 20, "validation": 4, "test": 18}


# --- all lessons, once, on a miniature hub --------------------------------------------------------

NUMBERS = [path.stem[:2] for path in all_lessons(REPOSITORY / "notebooks")]
# Two at a time, as there are two cores, and the longest first; 05 and 09 ask the model that 04 has
# written.
CHAIN = ("04", "05", "09")
CHAINS = [CHAIN, *((number,) for number in reversed(NUMBERS) if number not in CHAIN)]
# As `python -m vlm_utils course` executes them; the site that it builds has tests of its own.
EXECUTE = """
import sys
from pathlib import Path
from vlm_utils.course import cells, runner
from vlm_utils.profiles import output_folder
output_folder().mkdir()
done = [runner.run_lesson(path, output_folder(), page=False)
        for path in cells.choose(Path("notebooks"), sys.argv[1:])]
sys.exit("\\n".join(f"{each.name}: {each.fault()}" for each in done if each.fault()) or None)
"""


@pytest.fixture(scope="module")
def lessons(tmp_path_factory):
    """What went wrong, the executed lessons, and the folder in which 04 has written."""
    folder = tmp_path_factory.mktemp("full")
    (folder / "hub").mkdir()
    write_miniature(folder / "hub", PROFILES["full"], ROWS)
    environment = os.environ | {
        "VLM_PROFILE": "full", "VLM_SUBSET": str(SMALLEST_SUBSET),
        "HF_HUB_CACHE": str(folder / "hub"), "HF_DATASETS_CACHE": str(folder / "datasets"),
        "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    environment.pop("VLM_IMAGES", None)

    def execute(numbers):
        return subprocess.run(
            [sys.executable, "-c", EXECUTE, *numbers], cwd=REPOSITORY, capture_output=True,
            text=True, env=environment | {"VLM_OUTPUT": str(folder / numbers[0])})

    with ThreadPoolExecutor(2) as pool:
        ended = list(pool.map(execute, CHAINS))
    pages = {path.stem[:2]: nbformat.read(path, as_version=4)
             for numbers in CHAINS for path in (folder / numbers[0]).glob("[0-9]*.ipynb")}
    failed = [each.stdout + each.stderr for each in ended if each.returncode]
    return failed, pages, folder / CHAIN[0]


def printed(notebook, starts: str) -> str:
    """What the lines say that start so."""
    texts = [out.get("text", "") for cell in notebook.cells for out in cell.get("outputs", [])]
    return "\n".join(line for text in texts for line in text.split("\n")
                     if line.startswith(starts))


def test_all_lessons_run_in_the_full_profile(lessons):
    failed, pages, _ = lessons
    assert failed == []
    assert sorted(pages) == NUMBERS
    for name, page in pages.items():
        assert "profile: full" in printed(page, "profile:"), name
        assert printed(page, "subset:") == f"subset:  {SMALLEST_SUBSET} images of each split " \
                                           "(VLM_SUBSET)"


def test_libraries_say_nothing_of_a_load_that_went_well(lessons):
    """A trap: the classifier that a ViT on the hub has, and rows for new tokens, are no news."""
    for name, page in lessons[1].items():
        assert "LOAD REPORT" not in json.dumps(page), name
        assert "new embeddings will be" not in json.dumps(page), name


def test_image_tokens_do_not_exceed_the_fixed_length_of_lesson_03(lessons):
    page = lessons[1]["03"]
    share = printed(page, "padding:").split()[1]
    assert 0 < int(share.rstrip("%")) < 100, share
    assert printed(page, "equal:") == "equal: True"


def test_lesson_04_resumes_as_if_nothing_had_happened(lessons):
    """A trap: a projector that is drawn again each time makes two starts of one training."""
    page = lessons[1]["04"]
    straight, resumed = printed(page, "straight:"), printed(page, "resumed:")
    assert straight.split()[1:] == resumed.split()[1:] and len(straight.split()) == 7
    assert printed(page, "equal weights:") == "equal weights: True"


def test_lesson_04_says_what_its_ladder_took(lessons):
    assert printed(lessons[1]["04"], "samples in a batch") == "samples in a batch: 1"
    assert printed(lessons[1]["04"], "batches timed") == "batches timed on each rung: 2"
    assert printed(lessons[1]["06"], "samples in the batch") == "samples in the batch: 1"


def test_lesson_05_evaluates_the_model_of_lesson_04_with_no_comparable_tasks(lessons):
    _, pages, folder = lessons
    assert (folder / "full_16_images" / "lesson_04" / "config.json").is_file()
    steps = PROFILES["full"].on(SMALLEST_SUBSET).training.steps
    assert f"lesson 04 wrote after {steps} steps" in printed(pages["05"], "evaluating")
    assert printed(pages["05"], "these images") == \
        "these images do not show the same place over time"


# --- VLM_SUBSET -----------------------------------------------------------------------------------

@pytest.mark.parametrize("text", ["0", "-1", "x", "1.5", "15", "1e3", "16 images", "+16"])
def test_a_subset_that_will_not_do_is_refused_in_one_line(monkeypatch, text):
    monkeypatch.setenv("VLM_SUBSET", text)
    with pytest.raises(ValueError, match="VLM_SUBSET is a whole number .* at least 16, not "):
        get_profile()
    done = subprocess.run([sys.executable, "-m", "vlm_utils", "check", "01"], cwd=REPOSITORY,
                          capture_output=True, text=True)
    assert done.returncode == 2 and repr(text) in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize("text", [None, "", " "])
def test_without_a_subset_a_profile_is_what_it_was(monkeypatch, text):
    monkeypatch.delenv("VLM_SUBSET", raising=False)
    if text is not None:
        monkeypatch.setenv("VLM_SUBSET", text)
    assert get_profile("tiny") is PROFILES["tiny"] and get_profile("full") is PROFILES["full"]


@pytest.mark.parametrize("name", PROFILES)
@pytest.mark.parametrize("images", [16, 64, 500])
def test_steps_and_samples_are_in_proportion_and_never_more(monkeypatch, name, images):
    monkeypatch.setenv("VLM_SUBSET", str(images))
    whole, part = PROFILES[name], get_profile(name)
    share = images / whole.train_images
    assert part.subset == images
    assert part.training.steps == max(8, round(whole.training.steps * share))
    assert part.training.warmup_steps < part.training.steps
    for task, samples in whole.mixture.items():
        assert part.mixture[task] == max(16, round(samples * share))
    assert sum(part.mixture.values()) >= max(part.training.batch_size, 8)
    for number in ("test_samples", "measured_batch", "ladder_steps", "timed_answers",
                   "timed_tokens"):
        assert 0 < getattr(part, number) <= getattr(whole, number)
    assert sum(part.mixture.values()) >= part.measured_batch * part.ladder_steps


@pytest.mark.parametrize("name", PROFILES)
def test_a_subset_of_all_images_is_the_whole_course(name):
    part = PROFILES[name].on(10**6)
    whole = PROFILES[name]
    assert (part.training, part.mixture, part.test_samples) == (
        whole.training, whole.mixture, whole.test_samples)


def test_a_model_of_a_subset_does_not_replace_one_of_the_whole(monkeypatch):
    whole = lesson_checkpoint(get_profile("full"))
    monkeypatch.setenv("VLM_SUBSET", "32")
    assert lesson_checkpoint(get_profile("full")) != whole
    assert lesson_checkpoint(get_profile("full")) != lesson_checkpoint(get_profile("tiny"))


def test_outputs_of_a_subset_are_not_compared_and_the_check_says_so(monkeypatch):
    monkeypatch.delenv("VLM_SUBSET", raising=False)
    assert stored_outputs_are_meant()
    monkeypatch.setenv("VLM_SUBSET", "32")
    assert not stored_outputs_are_meant()
    assert "not compared (profile tiny on 32 images of each split)" in check_note(network=False)


@pytest.mark.parametrize("images", [16, 17, 20, 24, 32, 40, 64, 300])
def test_a_subset_of_tiny_earth_tells_all_that_the_lessons_ask(monkeypatch, images):
    """Every task of the mixture, every number of images twice, and a question of eight images."""
    monkeypatch.setenv("VLM_SUBSET", str(images))
    profile = get_profile("tiny")
    for split in ("train", "test"):
        table = load_image_table(profile, split)
        assert len(table) == len(table.truth.scenes) == len(table.truth.captions) == images
        assert max(map(len, table.truth.sites)) >= 4
    asked = {name: profile.test_samples for name in profile.mixture
             if not is_free_text(name.split()[0], table.truth)}
    for seed in range(8):
        dataset = build_tasks(table, asked, seed)
        assert {recipe.task for recipe in dataset.recipes} == {
            "select", "compare", "sequence", "refer"}
        assert len(shuffled(dataset)) == len(dataset)       # no sample is the only one of its kind
        for name in ("sequence", "compare"):                # something has happened, once at least
            assert any(not recipe.answer.startswith("Nothing")
                       for recipe in dataset.of_task(name).recipes)
        # A trap: two series of sixteen frames, and no image of another place is left.
        room = [r for r in dataset.recipes if r.task in ("select", "refer") and r.num_images < 16]
        assert len(with_unrelated(replace(dataset, recipes=room), seed)) == len(room) > 0
    assert len(build_tasks(table, {"select 8": 2}, seed=5)) == 2


def test_a_subset_keeps_images_and_what_is_known_of_them_together(monkeypatch):
    whole = load_image_table(PROFILES["tiny"], "validation")
    part = load_image_table(PROFILES["tiny"].on(40), "validation")
    known = {whole.image(row).tobytes(): row for row in range(len(whole))}
    where = [known[part.image(row).tobytes()] for row in range(len(part))]
    assert where == sorted(set(where))
    for row, of_whole in enumerate(where):
        assert part.truth.scenes[row] == whole.truth.scenes[of_whole]
        assert part.truth.captions[row] == whole.truth.captions[of_whole]
    assert len(part.truth.sites) > 1
    for rows in part.truth.sites:
        assert any({where[row] for row in rows} <= set(site) for site in whole.truth.sites)


@pytest.mark.parametrize(("sites", "total", "images", "expected"), [
    ([], 10, 5, ([0, 2, 4, 6, 8], [])),
    ([(0,), (1,), (2,), (3,)], 4, 2, ([0, 2], [(0,), (1,)])),
    ([(0, 1, 2, 3)], 4, 3, ([0, 2, 3], [(0, 1, 2)])),
    ([tuple(range(9)), tuple(range(9, 18))], 18, 8,
     ([0, 3, 5, 8, 9, 12, 14, 17], [(0, 1, 2, 3), (4, 5, 6, 7)])),
    ([tuple(range(24))], 24, 6, ([0, 5, 9, 14, 18, 23], [(0, 1, 2, 3, 4, 5)])),
    ([(2, 3), (4, 5, 6)], 7, 5, ([0, 1, 4, 5, 6], [(2, 3, 4)])),
    ([(0, 1), (2, 3)], 4, 3, ([0, 1], [(0, 1)]))])
def test_which_rows_are_kept(sites, total, images, expected):
    assert choose_subset(sites, total, images) == expected


def test_a_folder_of_the_user_has_a_subset_too(monkeypatch, tmp_path, picture):
    for i in range(40):
        picture(i).save(tmp_path / f"{i:02}.png")
    (tmp_path / "metadata.jsonl").write_text("".join(
        json.dumps({"file_name": f"{i:02}.png", "caption_0": f"Thing {i}."}) + "\n"
        for i in range(40)))
    monkeypatch.setenv("VLM_IMAGES", str(tmp_path))
    table = load_image_table(PROFILES["tiny"].on(16), "train")
    assert len(table) == 16 and len(load_image_table(PROFILES["tiny"], "train")) == 30
    for row in range(16):
        number = int(table.files[row][:2])
        assert table.truth.captions[row] == [f"Thing {number}."]
        assert table.image(row).tobytes() == picture(number).tobytes()


# --- half precision -------------------------------------------------------------------------------

@pytest.fixture
def gpu(monkeypatch):
    """A function that puts a GPU of that kind in the place of what is here."""
    def of(capability: tuple[int, int] | None, mps: bool = False):
        def is_bf16_supported(including_emulation=True):
            return including_emulation or capability >= (8, 0)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: capability is not None)
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", is_bf16_supported)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    return of


@pytest.mark.parametrize(("capability", "mps", "expected"), [
    ((9, 0), False, "bf16"), ((8, 0), False, "bf16"), ((7, 5), False, "fp16"),
    ((7, 0), False, "fp16"), (None, True, "no"), (None, False, "no")])
def test_precision_is_what_the_device_has_and_not_what_torch_imitates(gpu, capability, mps,
                                                                      expected):
    """A trap: torch says that a T4 supports bfloat16, and imitates it."""
    gpu(capability, mps)
    assert half_precision() == expected
    assert TrainingSettings.of(PROFILES["full"]).precision == expected
    assert TrainingSettings.of(PROFILES["full"], precision="no").precision == "no"
    assert TrainingSettings.of(PROFILES["tiny"]).precision == "no"


class HalfOnACpu(Accelerator):
    """accelerate gives float16 and its scaler to a GPU alone: here, what it does there."""

    first_scale = None          # the one that the course asks for

    def __init__(self, **settings):
        super().__init__(**settings)
        if self.mixed_precision == "fp16":
            self.native_amp = True
            asked = self.first_scale or self.scaler_handler.init_scale
            self.scaler = torch.amp.GradScaler("cpu", init_scale=asked)


@pytest.fixture
def half_on_a_cpu(monkeypatch):
    monkeypatch.setattr("vlm_utils.training.run.Accelerator", HalfOnACpu)
    return lambda scale: monkeypatch.setattr(HalfOnACpu, "first_scale", scale)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_float16_with_a_scaler_learns_as_float32_does(half_on_a_cpu, optimizer):
    exact = losses_of(small_run(replace(SETTINGS, optimizer=optimizer)))
    half = losses_of(small_run(replace(SETTINGS, optimizer=optimizer, precision="fp16")))
    assert half == pytest.approx(exact, rel=0.02) and half != exact
    assert half[-1] < half[0]


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_step_that_overflows_moves_no_weight_and_lowers_the_scale(half_on_a_cpu, optimizer):
    """Small gradients need a large scale; one that is too large makes them infinite."""
    half_on_a_cpu(2.0**40)
    run = small_run(replace(SETTINGS, optimizer=optimizer, precision="fp16", steps=2))
    before = {name: value.clone() for name, value in run.model.state_dict().items()}
    losses = losses_of(run)
    assert all(torch.equal(value, before[name]) for name, value in run.model.state_dict().items())
    assert run.accelerator.scaler.get_scale() == 2.0**38        # halved twice
    assert all(torch.isfinite(torch.tensor(losses)))


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_gradients_are_clipped_at_their_true_size_and_not_at_the_scaled_one(half_on_a_cpu,
                                                                            optimizer):
    """A trap: clipped before they are scaled back, every gradient looks far too long."""
    def norms(precision: str) -> list[float]:
        run, found = small_run(replace(SETTINGS, optimizer=optimizer, precision=precision)), []
        clip = run.accelerator.clip_grad_norm_
        run.accelerator.clip_grad_norm_ = lambda *given: found.append(float(clip(*given)))
        losses_of(run)
        return found
    exact = norms("no")
    for scale in (2.0**4, 2.0**12):
        half_on_a_cpu(scale)
        assert norms("fp16") == pytest.approx(exact, rel=0.05)


def test_a_resumed_float16_run_has_the_scale_that_it_was_stopped_with(half_on_a_cpu, tmp_path):
    """A trap: a scaler that starts again skips steps that the straight run took."""
    settings = replace(SETTINGS, precision="fp16")
    half_on_a_cpu(2.0**24)
    straight = losses_of(small_run(settings))

    def stop(row):
        if row["step"] == 6:
            raise KeyboardInterrupt
    losses_of(small_run(settings), tmp_path / "run", stop)
    half_on_a_cpu(2.0**40)              # what a new scaler would begin with
    assert resumed_losses(tmp_path / "run") == straight


def test_a_model_leaves_float16_as_it_came(half_on_a_cpu, processor):
    """Features, losses and answers after training are those of float32 again."""
    run = small_run(replace(SETTINGS, precision="fp16"))
    losses_of(run)
    model = run.model
    assert {value.dtype for value in model.state_dict().values()} == {torch.float32}
    ids = torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        logits = model(input_ids=ids).logits
        assert logits.dtype == torch.float32
        with torch.autocast("cpu", torch.float16):
            assert not torch.equal(model(input_ids=ids).logits.float(), logits)


class NoDoubles(TorchDispatchMode):
    """Apple's MPS has no float64: an operation that makes one fails there."""

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        result = function(*arguments, **(options or {}))
        made = [each for each in (result if isinstance(result, tuple | list) else [result])
                if isinstance(each, torch.Tensor) and each.dtype == torch.float64]
        if made:
            raise TypeError(f"{function} makes a float64 tensor, which MPS does not have")
        return result


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_encoding_training_and_answering_make_no_float64(make_model, processor, make_sample,
                                                         optimizer):
    with pytest.raises(TypeError, match="float64"), NoDoubles():
        torch.ones(2).double()
    model, sample = make_model(), make_sample(2)
    run = small_run(replace(SETTINGS, optimizer=optimizer, steps=2))
    with NoDoubles():
        model.encode_images(processor.pixel_values(sample.images))
        answer_samples(model, processor, [sample], max_new_tokens=4)
        assert len(losses_of(run)) == 2


# --- on a GPU, once a week -----------------------------------------------------------------------

def test_the_gpu_workflow_runs_the_tiny_profile_and_a_subset_of_the_full_one():
    text = (REPOSITORY / ".github" / "workflows" / "gpu.yml").read_text(encoding="utf-8")
    job = yaml.safe_load(text)["jobs"]["gpu"]
    lessons = [job["env"] | step.get("env", {}) for step in job["steps"]
               if "--nbval-lax --nbval-current-env notebooks" in step.get("run", "")]
    assert [(run["VLM_PROFILE"], run.get("VLM_SUBSET")) for run in lessons] == [
        ("tiny", None), ("full", "64")]
    kept, = (step["with"] for step in job["steps"] if step.get("uses", "").startswith(
        "actions/cache@"))
    assert kept["path"] == "${{ env.HF_HUB_CACHE }}" and "HF_HUB_CACHE" in job["env"]
    order = [step.get("run", step.get("uses", "")) for step in job["steps"]]
    fetched = next(i for i, run in enumerate(order) if run.endswith("vlm_utils prefetch"))
    cached = next(i for i, run in enumerate(order) if run.startswith("actions/cache"))
    assert cached < fetched < len(order) - 1
