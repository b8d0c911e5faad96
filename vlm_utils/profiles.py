"""The two profiles: every number that a lesson needs, and the device it runs on.

`VLM_PROFILE` chooses "tiny" (default: embedded data, any laptop) or "full" (ViT-B/16, SmolLM-135M
and Flickr8k, for a GPU). `VLM_SUBSET=n` runs it on n images of each split, to see in minutes that
all of it works. The cells of a lesson are the same in all of them.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, field, replace
from numbers import Integral, Real
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
PRECISIONS, AVERAGES = ("no", "bf16", "fp16"), ("samples", "tokens")
OPTIMIZERS = ("adamw", "muon", "adafactor")
SMALLEST_SUBSET = 16    # images of each split; with fewer, a lesson has nothing to show
_PATHS = ("VLM_IMAGES", "VLM_OUTPUT", "VLM_DATA")


@dataclass(frozen=True)
class HubRepository:
    """One pinned repository of the Hugging Face hub and the files of it that the course reads."""

    repo_id: str
    revision: str
    patterns: tuple[str, ...]
    repo_type: str = "model"


@dataclass(frozen=True)
class TrainingSettings:
    """The numbers of a training run. Raises ValueError for one that no training can have."""

    steps: int                      # optimizer steps, each of batch_size x accumulation samples
    batch_size: int = 64            # samples, of all processes together
    accumulation: int = 1           # batches whose gradients make one step
    learning_rate: float = 2e-3     # at its highest; see optimizer
    encoder_rate: float = 1.0       # of a vision encoder that trains, in shares of learning_rate
    warmup_steps: int = 200         # until the learning rate is at its highest
    weight_decay: float = 0.05      # of matrices; embeddings, norms and biases have none
    max_grad_norm: float = 1.0      # longer gradients are scaled down to this length
    precision: str = "no"           # "no" (float32), "bf16" or "fp16"
    checkpoint_every: int = 0       # steps between checkpoints on the way, 0 for none
    # Batches of samples that are sorted by length together (collate.LengthGroupedSampler): many
    # save padding, few mix the tasks in every batch.
    window: int = 2
    # What counts the same in the loss: "samples", however long their answers, or "tokens".
    average: str = "samples"
    # "adamw"; "muon" for the matrices and AdamW for the rest; or "adafactor", which keeps row and
    # column sums where AdamW keeps two numbers for each weight, and whose learning rate is a share
    # of each matrix's own size: about 1e-2.
    optimizer: str = "adamw"
    seed: int = 0

    def __post_init__(self):
        least = {"steps": 0, "batch_size": 1, "accumulation": 1, "warmup_steps": 0,
                 "checkpoint_every": 0, "window": 1, "seed": 0}
        for name, lowest in least.items():
            value = getattr(self, name)
            if not isinstance(value, Integral) or isinstance(value, bool) or value < lowest:
                raise ValueError(f"{name} is a whole number of at least {lowest}, not {value!r}")
        for name, may_be_zero in (("learning_rate", False), ("encoder_rate", False),
                                  ("max_grad_norm", False), ("weight_decay", True)):
            value = getattr(self, name)
            enough = isinstance(value, Real) and (value >= 0 if may_be_zero else value > 0)
            if not enough or not math.isfinite(value):
                raise ValueError(f"{name} is a number {'of at least' if may_be_zero else 'above'} "
                                 f"0, not {value!r}")
        for name, choices in (("precision", PRECISIONS), ("average", AVERAGES),
                              ("optimizer", OPTIMIZERS)):
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} is one of {', '.join(choices)}, not "
                                 f"{getattr(self, name)!r}")

    @classmethod
    def of(cls, profile: Profile, **changes) -> TrainingSettings:
        """The numbers of a profile, with changes. Its precision as far as the device has it: see
        `half_precision`."""
        settings = profile.training
        if settings.precision != "no":
            settings = replace(settings, precision=half_precision())
        return replace(settings, **changes)


@dataclass(frozen=True)
class Profile:
    """Model, data and numbers of one size of the course."""

    name: str
    summary: str
    training: TrainingSettings
    base_model: str | None = None       # folders under data/ that hold a whole model, or None
    trained_model: str | None = None
    vision_encoder: HubRepository | None = None     # used if there is no base_model
    language_model: HubRepository | None = None
    dataset: HubRepository | None = None            # None: TinyEarth
    merge_factor: int = 2               # squares of merge_factor x merge_factor patches: one token
    max_images: int = 16                # of a sample
    orientations: int = 1               # in which training images are seen (add_orientations)
    # Training samples of each task and number of images (datasets.build_tasks).
    mixture: dict[str, int] = field(default_factory=dict)
    test_samples: int = 200             # of each task and number of images in an evaluation
    # On a subset, at least so many: of a task of 1 to 3 images, two samples of each are needed.
    least_test_samples: int = 24
    # What lessons measure for its own sake: samples of a batch whose speed or memory is looked at,
    # batches on each rung of the ladder, and answers, each of so many tokens, that are timed.
    measured_batch: int = 8
    ladder_steps: int = 10
    timed_answers: int = 8
    timed_tokens: int = 48
    train_images: int = 6000            # of the training split
    subset: int | None = None           # images of each split (VLM_SUBSET); None: all

    @property
    def folder(self) -> str:
        """Where its lessons write in output_folder(). A subset's model never meets a whole one."""
        return self.name if self.subset is None else f"{self.name}_{self.subset}_images"

    def on(self, images: int) -> Profile:
        """The same profile on so many images of each split: steps and samples in proportion, and
        smaller batches, or a laptop would take a minute for a step of the full profile."""
        def part(number: int, least: int) -> int:
            return min(number, max(least, round(number * images / self.train_images)))

        training = self.training
        return replace(
            self, subset=images, test_samples=part(self.test_samples, self.least_test_samples),
            mixture={name: part(samples, 16) for name, samples in self.mixture.items()},
            measured_batch=min(self.measured_batch, max(1, images // 64)),
            ladder_steps=part(self.ladder_steps, 2),
            timed_answers=part(self.timed_answers, 1), timed_tokens=part(self.timed_tokens, 8),
            training=replace(
                training, steps=part(training.steps, 8),
                batch_size=min(training.batch_size, max(2, images // 32)),
                warmup_steps=part(training.warmup_steps, 1)))


_WEIGHTS = ("*.json", "*.safetensors", "*.txt")

PROFILES = {
    "tiny": Profile(
        name="tiny",
        summary="TinyEarth tiles, a 3-layer ViT and a 3-layer Llama, all embedded in data/",
        base_model="tiny_vlm_base",
        trained_model="tiny_vlm",
        orientations=3,
        train_images=21800,
        mixture={"select 2": 12000, "select 3": 48000, "compare 2": 24000, "sequence 2-4": 54000,
                 "refer 1-3": 50000, "describe 1": 4000},
        training=TrainingSettings(steps=3000, batch_size=64, learning_rate=2.5e-3,
                                  warmup_steps=150, checkpoint_every=500, optimizer="muon"),
    ),
    "full": Profile(
        name="full",
        summary="Flickr8k photographs, ViT-B/16 and SmolLM-135M",
        vision_encoder=HubRepository(
            "google/vit-base-patch16-224", "3f49326eb077187dfe1c2a2bb15fbd74e6ab91e3", _WEIGHTS),
        language_model=HubRepository(
            "HuggingFaceTB/SmolLM-135M", "1d461723eec654e65efdc40cf49301c89c0c92f4", _WEIGHTS),
        dataset=HubRepository("jxie/flickr8k", "main", ("data/*.parquet",), "dataset"),
        mixture={"describe 1": 30000, "select 2": 20000, "select 3": 30000, "refer 1-3": 20000},
        measured_batch=2, ladder_steps=5,       # so that lessons 04 and 06 stay within 8 GB
        least_test_samples=8,                   # without scenes, all are selections
        training=TrainingSettings(steps=6000, batch_size=32, learning_rate=5e-4,
                                  warmup_steps=300, checkpoint_every=500, precision="bf16"),
    ),
}


def get_profile(name: str | None = None) -> Profile:
    """The profile of that name, by default the one that VLM_PROFILE names, else "tiny"; on a part
    of its images if VLM_SUBSET says so. Raises ValueError for a name or a number that will not do.
    """
    name = name or os.environ.get("VLM_PROFILE") or "tiny"
    if name not in PROFILES:
        raise ValueError(f"unknown profile {name!r}: set VLM_PROFILE to one of {list(PROFILES)}")
    number = os.environ.get("VLM_SUBSET", "").strip()
    if not number:
        return PROFILES[name]
    if not number.isdecimal() or int(number) < SMALLEST_SUBSET:
        raise ValueError(f"VLM_SUBSET is a whole number of images of each split, at least "
                         f"{SMALLEST_SUBSET}, not {number!r}; without it, lessons use all images")
    return PROFILES[name].on(int(number))


def get_device():
    """CUDA where there is a GPU, else Apple's MPS, else the CPU, as a torch.device."""
    import torch
    if torch.cuda.is_available():
        return torch.device("cuda")
    if torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")


def half_precision() -> str:
    """The half precision that this device trains in: "bf16", "fp16" with a gradient scaler, or
    "no", which is float32.

    NVIDIA GPUs before Ampere (T4, V100) have no bfloat16: torch imitates it, slower than float32.
    On Apple's MPS and on a CPU the course trains in float32.
    """
    import torch
    if not torch.cuda.is_available():
        return "no"
    return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"


def image_folder() -> Path | None:
    """The user's own images (VLM_IMAGES), or None: a folder, or a file such as clip.mp4.

    Raises FileNotFoundError if there is neither. A relative path is looked for in each of
    `typed_from()`.
    """
    name = os.environ.get("VLM_IMAGES")
    if not name:
        return None
    tried = _places(name)
    for folder in tried:
        if folder.is_dir() or folder.is_file():
            return folder.resolve()
    raise FileNotFoundError(
        f"VLM_IMAGES names {name}, which is not a folder (looked for {_listed(tried)}): give one "
        "with images and, for captions, a metadata.jsonl or a folder for each class; or a clip")


def output_folder() -> Path:
    """Where lessons write: VLM_OUTPUT, else build/ beside the package's source. Not made here.

    A relative path counts from the first of `typed_from()`.
    """
    name = os.environ.get("VLM_OUTPUT")
    if name:
        return _places(name)[0]
    return (REPOSITORY if (REPOSITORY / "pyproject.toml").is_file() else Path.cwd()) / "build"


def data_folder() -> Path:
    """The folder that holds `tiny_earth/`: $VLM_DATA if set, else the one that came with the code.

    Raises FileNotFoundError naming the folders tried and the command that rebuilds the data.
    """
    name = os.environ.get("VLM_DATA")
    tried = _places(name) if name else [REPOSITORY / "data", REPOSITORY / "vlm_utils" / "_data"]
    for folder in tried:
        if (folder / "tiny_earth").is_dir():
            return folder
    raise FileNotFoundError(f"no tiny_earth folder in {_listed(tried)}; rebuild it with: "
                            "python -m vlm_utils.tiny_earth")


def typed_from() -> list[Path]:
    """The folders that a relative path of the user's may count from, likeliest first.

    A program runs where it was called: the current folder, then the shell's (PWD), then the
    repository. A notebook's kernel runs in the notebook's folder, where nobody typed anything: the
    folder of the shell that started Jupyter (PWD), then the repository if the notebook is in it,
    then the current folder.
    """
    here, shell = Path.cwd(), os.environ.get("PWD")
    shells = [Path(shell)] if shell and Path(shell).is_dir() else []
    if "JPY_PARENT_PID" in os.environ:          # set for every kernel
        clone = [REPOSITORY] if here.is_relative_to(REPOSITORY) else []
        places = [*shells, *clone, here]
    else:
        places = [here, *shells, REPOSITORY]
    return list(dict.fromkeys(places))


def settle_paths() -> None:
    """Make the user's paths absolute, so that kernels which start elsewhere read the same ones.

    A folder of images that cannot be found is left as it is, for the one who reads it to refuse.
    """
    for name in _PATHS:
        if os.environ.get(name):
            places = _places(os.environ[name], missing_ok=True)
            found = places if name == "VLM_OUTPUT" else [p for p in places if p.exists()]
            if found:
                os.environ[name] = str(found[0])


class quiet_libraries:
    """Show no progress bars of transformers and datasets: `with quiet_libraries(): ...`.

    In a notebook their bars are widgets, and in a file that is opened again only an error stands
    in their place. Called without `with`, it holds from then on, as torch.set_grad_enabled does.
    Downloads from the hub keep their bars: they may take minutes.
    """

    def __init__(self):
        import datasets
        from huggingface_hub.utils import are_progress_bars_disabled
        from transformers.utils import logging
        downloads = not are_progress_bars_disabled()
        self.before = (not datasets.are_progress_bars_disabled(),
                       logging.is_progress_bar_enabled(), downloads)
        self._show(False, False, downloads)

    def __enter__(self) -> quiet_libraries:
        return self

    def __exit__(self, *error) -> None:
        self._show(*self.before)

    @staticmethod
    def _show(of_datasets: bool, of_transformers: bool, of_downloads: bool) -> None:
        import datasets
        from huggingface_hub import utils as hub
        from transformers.utils import logging
        (datasets.enable_progress_bars if of_datasets else datasets.disable_progress_bars)()
        # transformers switches the hub's bars too, so these come last.
        (logging.enable_progress_bar if of_transformers else logging.disable_progress_bar)()
        (hub.enable_progress_bars if of_downloads else hub.disable_progress_bars)()


def announce(profile: Profile) -> None:
    """Print which profile runs, on which images and on which device.

    From here on the lesson shows no progress bars of libraries (see quiet_libraries).
    """
    quiet_libraries()
    images = image_folder()
    print(f"profile: {profile.name} ({profile.summary})")
    if profile.subset:
        print(f"subset:  {profile.subset} images of each split (VLM_SUBSET)")
    if images:
        print(f"images:  {images.name} (VLM_IMAGES)")
    print(f"device:  {get_device().type}")


def _places(name: str, missing_ok: bool = False) -> list[Path]:
    """What a user's path may mean: one place if it is absolute or starts at home (~).

    Raises FileNotFoundError if there is no such home, or, with missing_ok, returns nothing.
    """
    try:
        path = Path(name).expanduser()
    except RuntimeError as error:
        if missing_ok:
            return []
        raise FileNotFoundError(f"{name}: {error}") from error
    return [path] if path.is_absolute() else [place / path for place in typed_from()]


def _listed(tried: list[Path]) -> str:
    return " and ".join(str(folder) for folder in tried)
