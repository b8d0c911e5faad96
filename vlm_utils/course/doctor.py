"""`python -m vlm_utils doctor`: is everything here that the lessons need, and if not, what to do?

One line for each thing looked at. "ok"; "note": the lessons run, but look; "MISSING": they do not.

Any package may be missing or broken on the machine that is examined: at the top stands only what
the standard library has, and each examination imports what it needs.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from vlm_utils import profiles
from vlm_utils.profiles import REPOSITORY, Profile
from vlm_utils.sources.hub import (
    PREFETCH,
    cache_folder,
    damaged,
    free_bytes,
    in_cache,
    repositories,
)

PYTHON = (3, 11, 5)
GIGABYTE = 1_000_000_000
# What a whole course writes: features, checkpoints, the data sets' cache.
DISK = {"tiny": 3, "full": 15}
BESIDE_A_GPU = 4        # GB that stay in the machine's memory if the models are on a GPU
_INSTALL = "python -m pip install --constraint constraints.txt --editable '.[test]'"
# What lessons and their checks import, by the name to import; in an order in which what others
# stand on comes first, so that the one to blame is named first.
_IMPORTED = ("numpy", "pandas", "pyarrow", "PIL", "scipy", "psutil", "matplotlib", "torch",
             "safetensors", "tokenizers", "huggingface_hub", "datasets", "transformers",
             "accelerate", "einops", "sacrebleu", "tqdm", "ipywidgets", "IPython", "ipykernel",
             "jupyter_client", "nbformat", "nbclient", "nbconvert", "nbval")
_IMPORT_ALL = """
import importlib, json, sys
for name in sys.argv[1:]:
    print(json.dumps([name, "ends the process that imports it"]), flush=True)
    try:
        importlib.import_module(name)
        print(json.dumps([name, ""]), flush=True)
    except BaseException as error:
        print(json.dumps([name, f"{type(error).__name__}: {error}"]), flush=True)
"""


@dataclass(frozen=True)
class Finding:
    """level: "ok", "note" or "MISSING". text: what was found; where it is not ok, what to do."""

    name: str
    level: str
    text: str


def examine(profile: Profile) -> int:
    """Print a line for each finding; 1 where the profile lacks something that it needs, else 0."""
    missing = 0
    for finding in findings(profile):
        print(f"{finding.level:8} {finding.name:20} {finding.text}", flush=True)
        missing += finding.level == "MISSING"
    print(f"profile {profile.name}: " + (f"{missing} missing" if missing else "ready"))
    return int(missing > 0)


def findings(profile: Profile) -> Iterator[Finding]:
    """All of them, in the order in which they should be put right."""
    yield python()
    yield packages()
    broken = broken_imports()
    yield imports(broken)

    def look(name: str, needs: str, examination: Callable[..., Finding], *arguments) -> Finding:
        """What an examination finds, or what kept it from looking."""
        absent = [package for package in needs.split() if package in broken]
        if absent:
            return Finding(name, "note", f"not looked at, as {absent[0]} cannot be imported")
        try:
            return examination(*arguments)
        except Exception as error:      # a broken installation raises what it likes
            return Finding(name, "MISSING", f"cannot be examined ({type(error).__name__}: "
                                            f"{error}); run: {_INSTALL}")

    yield look("jupyter kernel", "jupyter_client", kernel)
    yield look("device", "torch numpy", device, profile)
    yield look("memory", "psutil numpy", memory, profile)
    yield look("build folder", "", build_folder)
    yield look("data sets' cache", "datasets", data_sets_cache)
    yield look("disk", "", disk, profile)
    yield look("embedded files", "pyarrow safetensors", embedded_files)
    if os.environ.get("VLM_IMAGES"):
        yield look("images", "PIL torch datasets transformers", own_images, profile)
    yield look("hub's cache", "huggingface_hub", hub_cache)
    for repository in repositories(profiles.get_profile("full")):
        yield look(repository.repo_id.split("/")[-1], "huggingface_hub pyarrow safetensors",
                        hub_files, repository, repository in repositories(profile))


def python(version: tuple = sys.version_info) -> Finding:
    text = ".".join(map(str, version[:3]))
    if tuple(version[:3]) < PYTHON:
        return Finding("python", "MISSING", f"{text}: install Python 3.11.5 or newer")
    return Finding("python", "ok", text)


def packages() -> Finding:
    """What the course depends on, against the versions it was tested with."""
    absent = [name for name in _dependencies() if _version(name) is None]
    if absent:
        return Finding("packages", "MISSING",
                       f"not installed: {', '.join(absent)}; run: {_INSTALL}")
    constraints = REPOSITORY / "constraints.txt"
    if not constraints.is_file():
        return Finding("packages", "note", "all installed; the tested versions stand in the "
                                           "repository's constraints.txt, which is not here")
    lines = constraints.read_text(encoding="utf-8").split()
    pinned = dict(line.split("==") for line in lines if "==" in line)
    other = [f"{name} {found} ({wanted})" for name, wanted in pinned.items()
             if (found := _version(name)) is not None and found.split("+")[0] != wanted]
    if other:
        shown = ", ".join(other[:5]) + (f" and {len(other) - 5} more" if len(other) > 5 else "")
        return Finding("packages", "note",
                       f"other versions than the tested ones: {shown}; run: {_INSTALL}")
    return Finding("packages", "ok", f"{len(pinned)} as in constraints.txt")


def broken_imports(names: tuple[str, ...] = _IMPORTED) -> dict[str, str]:
    """The packages that do not load, each with its error.

    Asked in a process of its own, which a broken one may end: then another asks the rest.
    """
    broken: dict[str, str] = {}
    waiting = list(names)
    while waiting:
        done = subprocess.run([sys.executable, "-c", _IMPORT_ALL, *waiting], check=False,
                              capture_output=True, text=True, errors="replace")
        told = dict(json.loads(line) for line in done.stdout.splitlines() if line.startswith("["))
        broken |= {name: error for name, error in told.items() if error}
        if not told:
            return {"python": f"does not start: {done.stderr[-200:]}"}
        waiting = waiting[len(told):]
    return broken


def imports(broken: dict[str, str]) -> Finding:
    """Does each package that is installed also load?"""
    if not broken:
        return Finding("imports", "ok", f"{len(_IMPORTED)} packages load")
    name, error = next(iter(broken.items()))
    others = f" (and so are {', '.join(list(broken)[1:])})" if len(broken) > 1 else ""
    return Finding("imports", "MISSING", f"{name} is broken: {error[:200]}{others}; run: "
                                         f"{_INSTALL}")


def kernel() -> Finding:
    """Notebooks name the kernel "python3": it may be that of another environment."""
    from jupyter_client.kernelspec import KernelSpecManager, NoSuchKernel
    try:
        command = KernelSpecManager().get_kernel_spec("python3").argv[0]
    except NoSuchKernel:
        return Finding("jupyter kernel", "MISSING", "none is called python3; run: python -m "
                       "ipykernel install --sys-prefix")
    # Not resolved: the Python of a virtual environment is a link to the one it was made from.
    if Path(command).is_absolute() and Path(command).parent != Path(sys.executable).parent:
        return Finding("jupyter kernel", "note", f"python3 starts {command}, not this Python; run: "
                       "python -m ipykernel install --sys-prefix")
    return Finding("jupyter kernel", "ok", "python3 is this Python")


def device(profile: Profile) -> Finding:
    try:
        import torch
        kind = profiles.get_device().type
    except Exception as error:      # a broken installation raises what it likes
        return Finding("device", "MISSING", f"torch does not work ({type(error).__name__}: "
                       f"{error}); run: {_INSTALL}")
    if kind == "cuda":
        free, total = torch.cuda.mem_get_info()
        text = (f"{torch.cuda.get_device_name()}, {free / GIGABYTE:.1f} of "
                f"{total / GIGABYTE:.1f} GB free, trains in {profiles.half_precision()}")
        return _suffices("device", profile, free / GIGABYTE, text)
    if kind == "mps" or profile.name == "tiny":
        return Finding("device", "ok", f"{kind}, {torch.get_num_threads()} threads")
    if profile.subset is not None:
        return Finding("device", "ok", f"no GPU: enough for {profile.subset} images of each split")
    return Finding("device", "note", "no GPU: lesson 04 takes very long; VLM_SUBSET=64, minutes")


def memory(profile: Profile) -> Finding:
    """Is it enough for each lesson? With a GPU, that is asked of the GPU's: see `device`."""
    import psutil
    free = psutil.virtual_memory().available / GIGABYTE
    total = psutil.virtual_memory().total / GIGABYTE
    text = f"{free:.1f} of {total:.1f} GB free"
    if not _has_cuda():
        return _suffices("memory", profile, free, text)
    if free >= BESIDE_A_GPU:
        return Finding("memory", "ok", text)
    return Finding("memory", "note", f"{text}: close other programs, beside the GPU's memory the "
                                     f"lessons may take {BESIDE_A_GPU} GB")


def _has_cuda() -> bool:
    """Is there a GPU of NVIDIA's? If torch cannot say, `device` says why."""
    try:
        return profiles.get_device().type == "cuda"
    except Exception:       # a broken installation raises what it likes
        return False


def _suffices(name: str, profile: Profile, free: float, text: str) -> Finding:
    """Free memory in GB beside what each lesson was measured to take."""
    from vlm_utils.course.limits import lesson_memory  # needs numpy
    needed = lesson_memory(profile)
    most = max(needed, key=needed.get)
    short = {lesson: size for lesson, size in needed.items() if size > free}
    if not short:
        return Finding(name, "ok", f"{text}, enough for each lesson (lesson {most} takes "
                                   f"{needed[most]:.1f} GB)")
    sizes = ", ".join(f"{lesson} ({size:.1f} GB)" for lesson, size in short.items())
    remedy = "" if profile.subset or profile.name == "tiny" else ", or set VLM_SUBSET=64"
    rest = ", ".join(lesson for lesson in needed if lesson not in short)
    enough = f"; enough for {rest}" if rest else ""
    return Finding(name, "note", f"{text}: too little for lesson {sizes}{enough}: close other "
                                 f"programs{remedy}")


def build_folder() -> Finding:
    """Where lessons write."""
    return _written_to("build folder", profiles.output_folder, "VLM_OUTPUT")


def data_sets_cache() -> Finding:
    """Where the `datasets` library keeps what it has prepared."""
    from datasets import config
    return _written_to("data sets' cache", lambda: Path(config.HF_DATASETS_CACHE),
                       "HF_DATASETS_CACHE")


def _written_to(name: str, find: Callable[[], Path], setting: str) -> Finding:
    try:
        folder = find()
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        return Finding(name, "MISSING", f"cannot write ({error}): set {setting} to a folder that "
                                        "you may write to")
    return Finding(name, "ok", f"{folder} can be written to")


def disk(profile: Profile) -> Finding:
    try:
        folder = profiles.output_folder()
    except OSError:
        folder = REPOSITORY
    free, wanted = free_bytes(folder) / GIGABYTE, DISK[profile.name]
    text = f"{free:.1f} GB free in {folder}"
    if free < wanted:
        return Finding("disk", "MISSING", f"{text}, the course may take {wanted} GB: make room, or "
                                          "set VLM_OUTPUT")
    return Finding("disk", "ok", text)


def embedded_files() -> Finding:
    """TinyEarth and the small models, which come with the repository."""
    tiny = profiles.get_profile("tiny")
    try:
        folder = profiles.data_folder()
    except FileNotFoundError as error:
        return Finding("embedded files", "MISSING", str(error))
    absent = [f"{name}/{file}" for name in (tiny.base_model, tiny.trained_model)
              for file in ("config.json", "model.safetensors", "tokenizer.json")
              if not (folder / name / file).is_file()]
    absent += [f"tiny_earth/{name}" for name in ("scenes", "sequences")
               if not list((folder / "tiny_earth" / name).rglob("*.parquet"))]
    broken = damaged(folder)
    if absent or broken:
        names = ", ".join([*absent, *(f"{name} (damaged)" for name in broken)])
        return Finding("embedded files", "MISSING", f"{names}: clone the repository again")
    return Finding("embedded files", "ok", str(folder))


def own_images(profile: Profile) -> Finding:
    """The folder that VLM_IMAGES names, read as the lessons will read it."""
    from vlm_utils.datasets import load_image_table
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            train, test = (load_image_table(profile, split) for split in ("train", "test"))
        except (ValueError, OSError) as error:
            return Finding("images", "MISSING", str(error))
    said = "".join(f"; {warning.message}" for warning in caught)
    if not train.truth.has_captions:
        return Finding("images", "note", f"{len(train)} frames without captions: lessons show "
                       f"them, and train and measure on the profile's own images{said}")
    return Finding("images", "note" if said else "ok",
                   f"{len(train)} captioned images to train on, {len(test)} to test on{said}")


def hub_cache() -> Finding:
    """Where the full profile's files are, or will be; whether they are there, is said of each."""
    folder = cache_folder()
    if not folder.is_dir():
        return Finding("hub's cache", "ok", f"{folder}, which prefetch will make")
    if not os.access(folder, os.W_OK):
        return Finding("hub's cache", "note", f"{folder} cannot be written to: set HF_HUB_CACHE "
                                              "to another folder before prefetch")
    return Finding("hub's cache", "ok",
                   f"{folder}, {free_bytes(folder) / GIGABYTE:.1f} GB free there")


def hub_files(repository: profiles.HubRepository, needed: bool) -> Finding:
    """A repository of the full profile: there, whole, and readable?"""
    name = repository.repo_id.split("/")[-1]
    folder = in_cache(repository)
    broken = damaged(folder) if folder is not None else []
    if folder is None or broken:
        what = f"damaged: {', '.join(broken)}" if broken else "not in the cache"
        return Finding(name, "MISSING" if needed else "note", f"{what}; with a network, run: "
                       f"{PREFETCH}" + ("" if needed else " (full profile only)"))
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    return Finding(name, "ok", f"{size / 1e6:.0f} MB")


def _dependencies() -> list[str]:
    """Names of the packages that the course asks for, without those of its extras."""
    try:
        wanted = metadata.requires("vlm_utils") or []
    except metadata.PackageNotFoundError:
        return ["vlm_utils"]
    return [re.match(r"[\w.-]+", line)[0] for line in wanted if "extra ==" not in line]


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
