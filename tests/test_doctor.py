"""Each line of `python -m vlm_utils doctor`: right where all is well, and with each fault."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections import namedtuple
from dataclasses import replace
from pathlib import Path

import huggingface_hub
import psutil
import pytest
import torch
from hub_cache import into_hub_cache, write_flickr

from vlm_utils import profiles
from vlm_utils.course import doctor
from vlm_utils.course.limits import lesson_memory
from vlm_utils.profiles import REPOSITORY, get_profile

TINY, FULL = get_profile("tiny"), get_profile("full")


@pytest.fixture(autouse=True)
def _own_caches(monkeypatch, tmp_path):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "datasets")


def level(finding):
    return finding.level


def test_here_the_tiny_profile_is_ready_and_every_finding_has_its_line(capsys):
    assert doctor.examine(TINY) == 0
    lines = capsys.readouterr().out.strip().split("\n")
    names = [line[9:29].strip() for line in lines[:-1]]
    assert names == ["python", "packages", "imports", "jupyter kernel", "device", "memory",
                     "build folder", "data sets' cache", "disk", "embedded files", "hub's cache",
                     "vit-base-patch16-224", "SmolLM-135M", "flickr8k"]
    assert {line[:9].strip() for line in lines[:-1]} <= {"ok", "note"}
    assert lines[-1] == "profile tiny: ready"


def test_the_full_profile_without_its_files_is_not_ready(capsys):
    assert doctor.examine(FULL) == 1
    said = capsys.readouterr().out
    assert len(re.findall(r"^MISSING .*prefetch$", said, re.M)) == 3
    assert "profile full: 3 missing" in said


def test_an_old_python_is_refused():
    assert level(doctor.python((3, 10, 14))) == level(doctor.python((3, 11, 4))) == "MISSING"
    assert level(doctor.python((3, 11, 5))) == level(doctor.python()) == "ok"


def test_a_package_that_is_not_installed_is_named(monkeypatch):
    known = doctor._version
    monkeypatch.setattr(doctor, "_version", lambda n: None if n == "einops" else known(n))
    found = doctor.packages()
    assert level(found) == "MISSING" and "einops" in found.text and "pip install" in found.text


def test_another_version_than_the_tested_one_is_noted_with_both(monkeypatch, tmp_path):
    (tmp_path / "constraints.txt").write_text("einops==0.0.1\nnot-installed-here==1.0\n")
    monkeypatch.setattr(doctor, "REPOSITORY", tmp_path)
    found = doctor.packages()
    assert level(found) == "note" and "einops" in found.text and "(0.0.1)" in found.text
    assert "not-installed-here" not in found.text
    version = doctor._version("einops")
    (tmp_path / "constraints.txt").write_text(f"einops=={version}\n")
    assert level(doctor.packages()) == "ok"
    monkeypatch.setattr(doctor, "_version", lambda name: f"{version}+cpu")    # a build of torch's
    assert level(doctor.packages()) == "ok"
    (tmp_path / "constraints.txt").unlink()
    assert level(doctor.packages()) == "note"


def test_a_kernel_of_another_python_is_noted_and_none_is_missing(monkeypatch):
    from jupyter_client.kernelspec import KernelSpec, KernelSpecManager, NoSuchKernel

    def of(command):
        monkeypatch.setattr(KernelSpecManager, "get_kernel_spec",
                            lambda self, name: KernelSpec(argv=[command, "-m", "ipykernel"]))
        return doctor.kernel()

    assert level(of(sys.executable)) == level(of("python")) == "ok"
    assert level(of(str(Path(sys.executable).parents[2] / "other" / "bin" / "python"))) == "note"

    def none(self, name):
        raise NoSuchKernel(name)

    monkeypatch.setattr(KernelSpecManager, "get_kernel_spec", none)
    assert level(doctor.kernel()) == "MISSING"


@pytest.mark.parametrize(("kind", "profile", "expected"), [
    ("cpu", TINY, "ok"), ("cpu", FULL, "note"), ("cuda", FULL, "ok"), ("mps", FULL, "ok")])
def test_the_device_and_its_memory(monkeypatch, kind, profile, expected):
    monkeypatch.setattr(profiles, "get_device", lambda: torch.device(kind))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (30_000_000_000, 40_000_000_000))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "A GPU")
    found = doctor.device(profile)
    assert level(found) == expected
    if kind == "cuda":
        assert found.text.startswith("A GPU, 30.0 of 40.0 GB free, trains in ")
        assert "enough for each lesson (lesson 0" in found.text


def test_a_torch_that_does_not_work_is_missing(monkeypatch):
    def broken():
        raise OSError("libtorch.so: no such file")
    monkeypatch.setattr(profiles, "get_device", broken)
    found = doctor.device(TINY)
    assert level(found) == "MISSING" and "libtorch.so" in found.text


def test_little_memory_is_noted(monkeypatch):
    memory = namedtuple("memory", "available total")
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory(1_000_000_000, 8_000_000_000))
    found = doctor.memory(TINY)
    assert level(found) == "note" and "1.0 of 8.0 GB free" in found.text


@pytest.fixture
def free(monkeypatch):
    """A function that says so many GB are free in memory, and on a GPU if there is to be one."""
    def set_free(memory: float, on_gpu: float | None = None) -> None:
        kind = namedtuple("memory", "available total")
        monkeypatch.setattr(psutil, "virtual_memory", lambda: kind(memory * 1e9, 64e9))
        monkeypatch.setattr(profiles, "get_device",
                            lambda: torch.device("cpu" if on_gpu is None else "cuda"))
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (on_gpu * 1e9, 80e9))
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "A GPU")
    return set_free


@pytest.mark.parametrize("profile", [TINY, FULL, FULL.on(64)])
def test_memory_is_compared_with_what_each_lesson_was_measured_to_take(free, profile):
    needed = lesson_memory(profile)
    assert sorted(needed) == ["01", "02", "03", "04", "05", "06", "07", "08", "10"]
    most = max(needed.values())
    free(most + 0.01)
    found = doctor.memory(profile)
    assert level(found) == "ok" and f"takes {most:.1f} GB" in found.text
    for limit in sorted(set(needed.values()))[:-1]:
        free(limit + 0.01)
        found = doctor.memory(profile)
        short, enough = found.text.split("; enough for ")
        assert level(found) == "note"
        for lesson, size in needed.items():
            named = f"{lesson} ({size:.1f} GB)" in short
            assert named == (size > limit + 0.01), found.text
            assert (lesson in enough) != named
    free(0.1)
    assert "; enough for" not in doctor.memory(profile).text


def test_a_subset_of_the_full_profile_needs_less_and_is_what_is_advised(free):
    whole, part = lesson_memory(FULL), lesson_memory(FULL.on(64))
    assert all(part[lesson] <= whole[lesson] for lesson in whole)
    assert whole["04"] > part["04"] and max(part.values()) <= 10
    assert whole["06"] <= 8
    free(6)
    assert doctor.memory(FULL).text.endswith("close other programs, or set VLM_SUBSET=64")
    free(0.1)
    assert "VLM_SUBSET" not in doctor.memory(FULL.on(64)).text
    assert "VLM_SUBSET" not in doctor.memory(TINY).text


def test_on_a_gpu_its_own_memory_is_what_counts(free):
    free(6, on_gpu=6)
    assert level(doctor.memory(FULL)) == "ok"
    found = doctor.device(FULL)
    assert level(found) == "note" and "too little for lesson" in found.text
    free(3, on_gpu=70)
    assert level(doctor.memory(FULL)) == "note" and level(doctor.device(FULL)) == "ok"


def test_without_a_gpu_a_subset_is_advised_and_enough(monkeypatch):
    monkeypatch.setattr(profiles, "get_device", lambda: torch.device("cpu"))
    assert "lesson 04 takes very long; VLM_SUBSET=64" in doctor.device(FULL).text
    assert level(doctor.device(FULL.on(64))) == "ok"


def test_a_folder_that_cannot_be_written_to_is_missing(monkeypatch, tmp_path):
    blocked = tmp_path / "a file"
    blocked.write_text("no folder")         # for the superuser, too, no folder to write into
    monkeypatch.setenv("VLM_OUTPUT", str(blocked))
    build = doctor.build_folder()
    assert level(build) == "MISSING" and "VLM_OUTPUT" in build.text
    assert level(doctor.data_sets_cache()) == "ok"
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", blocked / "datasets")
    assert level(doctor.data_sets_cache()) == "MISSING"
    assert level(doctor.disk(TINY)) == "ok"         # says nothing of what the other line says


def test_a_full_disk_is_missing(monkeypatch):
    monkeypatch.setattr(doctor, "free_bytes", lambda folder: 100_000_000)
    found = doctor.disk(TINY)
    assert level(found) == "MISSING" and found.text.startswith("0.1 GB free")


@pytest.mark.parametrize(("fault", "file"), [
    ("gone", "tiny_vlm/model.safetensors"), ("gone", "tiny_earth/scenes/test.parquet"),
    ("cut short", "tiny_vlm_base/model.safetensors"), ("cut short", "tiny_vlm/tokenizer.json"),
    ("cut short", "tiny_earth/sequences/test.parquet")])
def test_an_embedded_file_that_is_gone_or_cut_short_is_named(monkeypatch, tmp_path, fault, file):
    folder = tmp_path / "data"
    shutil.copytree(profiles.data_folder(), folder)
    monkeypatch.setenv("VLM_DATA", str(folder))
    assert level(doctor.embedded_files()) == "ok"
    if fault == "gone":
        for each in (folder / file).parent.glob("*" + Path(file).suffix):
            each.unlink()
    else:
        whole = (folder / file).read_bytes()
        (folder / file).write_bytes(whole[:len(whole) // 2])
    found = doctor.embedded_files()
    assert level(found) == "MISSING"
    assert (file if fault == "cut short" else file.split("/")[0]) in found.text


def test_without_its_data_the_course_is_not_ready(monkeypatch, tmp_path):
    monkeypatch.setenv("VLM_DATA", str(tmp_path))
    assert level(doctor.embedded_files()) == "MISSING"


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="all is writable to root")
def test_a_hub_cache_that_cannot_be_written_to_is_noted(tmp_path):
    (tmp_path / "hub").mkdir(mode=0o500)
    assert level(doctor.hub_cache()) == "note"


def test_the_hub_cache_is_named_whether_it_is_there_or_not(tmp_path):
    assert "which prefetch will make" in doctor.hub_cache().text
    (tmp_path / "hub").mkdir()
    assert str(tmp_path / "hub") in doctor.hub_cache().text and "GB free" in doctor.hub_cache().text


def test_files_of_the_hub_there_and_whole_and_not(tmp_path):
    repository = replace(FULL.dataset)
    (tmp_path / "hub").mkdir()
    assert level(doctor.hub_files(repository, needed=True)) == "MISSING"
    assert level(doctor.hub_files(repository, needed=False)) == "note"
    snapshot = into_hub_cache(tmp_path / "hub", repository)
    write_flickr(snapshot, {"train": 3, "validation": 3, "test": 3})
    assert level(doctor.hub_files(repository, needed=True)) == "ok"
    cut = snapshot / "data" / "test-00000-of-00001.parquet"
    cut.write_bytes(cut.read_bytes()[:-10])
    found = doctor.hub_files(repository, needed=True)
    assert level(found) == "MISSING" and f"damaged: {Path('data') / cut.name}" in found.text


# --- a machine on which something is broken ------------------------------------------------------

def without(tmp_path, *names, code="raise ImportError('broken for this test')"):
    """A process in which these packages cannot be imported: its environment."""
    for name in names:
        (tmp_path / f"{name}.py").write_text(code)
    return os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{REPOSITORY}"}


def lines_of(process) -> dict[str, str]:
    """What doctor said, by the name of each line."""
    assert "Traceback" not in process.stdout + process.stderr, process.stderr
    return {line[9:29].strip(): line for line in process.stdout.splitlines()[:-1]}


def run_doctor(environment):
    return subprocess.run([sys.executable, "-m", "vlm_utils", "doctor"], env=environment,
                          cwd=REPOSITORY, capture_output=True, text=True)


def test_with_everything_broken_at_once_doctor_still_says_so(tmp_path):
    """Each of these alone ended an earlier doctor with a traceback, or was called ready."""
    broken = ["psutil", "datasets", "pandas", "huggingface_hub", "jupyter_client", "transformers",
              "nbval", "nbformat", "torch", "pyarrow", "safetensors", "PIL"]
    done = run_doctor(without(tmp_path, *broken))
    said = lines_of(done)
    assert done.returncode == 1 and "ready" not in done.stdout
    assert said["imports"].startswith("MISSING") and all(n in said["imports"] for n in broken)
    for name in ("jupyter kernel", "device", "memory", "data sets' cache", "hub's cache"):
        assert "not looked at" in said[name], said[name]
    assert said["python"].startswith("ok") and said["build folder"].startswith("ok")


@pytest.mark.parametrize("name", ["psutil", "pandas", "nbval", "nbformat", "einops"])
def test_a_package_that_is_installed_and_does_not_load_is_missing(monkeypatch, tmp_path, name):
    monkeypatch.setenv("PYTHONPATH", without(tmp_path, name)["PYTHONPATH"])
    broken = doctor.broken_imports(("json", name, "csv"))
    assert broken == {name: "ImportError: broken for this test"}
    found = doctor.imports(broken)
    assert level(found) == "MISSING" and name in found.text and "pip install" in found.text


def test_a_package_that_ends_the_process_is_named_and_the_rest_is_asked(monkeypatch, tmp_path):
    """As a library built for another processor does: the interpreter is gone."""
    environment = without(tmp_path, "torch", code="import os; os._exit(11)")
    monkeypatch.setenv("PYTHONPATH", environment["PYTHONPATH"])
    assert doctor.broken_imports(("json", "torch", "csv", "no_such_package")) == {
        "torch": "ends the process that imports it",
        "no_such_package": "ModuleNotFoundError: No module named 'no_such_package'"}


def test_a_broken_torch_does_not_make_the_embedded_weights_look_damaged(tmp_path):
    """A trap: whoever opens safetensors by way of torch says "clone again" to a whole clone."""
    code = ("from vlm_utils.course import doctor; import json; "
            "found = doctor.embedded_files(); print(json.dumps([found.level, found.text]))")
    done = subprocess.run([sys.executable, "-c", code], env=without(tmp_path, "torch"),
                          capture_output=True, text=True)
    assert json.loads(done.stdout)[0] == "ok", done.stdout + done.stderr


def test_a_library_that_is_broken_is_not_a_file_that_is_damaged(monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ImportError):
        doctor.embedded_files()


def test_what_cannot_be_examined_is_missing_and_the_others_are_looked_at(monkeypatch, capsys):
    def breaks(*arguments):
        raise RuntimeError("the driver is older than this library")
    monkeypatch.setattr(doctor, "broken_imports", lambda: {})
    monkeypatch.setattr(doctor, "kernel", breaks)
    assert doctor.examine(TINY) == 1
    said = capsys.readouterr().out
    assert re.search(r"^MISSING +jupyter kernel +cannot be examined .*driver is older", said, re.M)
    assert re.search(r"^ok +embedded files", said, re.M)


# --- the user's own images -----------------------------------------------------------------------

@pytest.fixture
def own_folder(tmp_path, monkeypatch, picture):
    folder = tmp_path / "mine"
    folder.mkdir()
    for i in range(9):
        picture(i).save(folder / f"{i}.png")
    monkeypatch.setenv("VLM_IMAGES", str(folder))
    return folder


def write_captions(folder, captions):
    (folder / "metadata.jsonl").write_text("".join(
        json.dumps({"file_name": f"{i}.png", "caption_0": text}) + "\n"
        for i, text in enumerate(captions)))


def test_the_images_of_the_user_are_examined(own_folder):
    assert level(doctor.own_images(TINY)) == "note"         # frames without captions
    write_captions(own_folder, [f"Thing {i}." for i in range(9)])
    found = doctor.own_images(TINY)
    assert level(found) == "ok" and "5 captioned images to train on, 4 to test on" in found.text
    write_captions(own_folder, [f"Thing {i}." for i in range(8)])
    found = doctor.own_images(TINY)
    assert level(found) == "note" and "8.png" in found.text
    (own_folder / "3.png").write_bytes(b"no picture")
    found = doctor.own_images(TINY)
    assert level(found) == "MISSING" and "3.png: is not an image" in found.text


def test_a_folder_of_images_that_is_not_there_is_missing(own_folder, monkeypatch, capsys):
    monkeypatch.setenv("VLM_IMAGES", str(own_folder / "gone"))
    monkeypatch.setattr(doctor, "broken_imports", lambda: {})
    assert doctor.examine(TINY) == 1
    assert re.search(r"^MISSING +images +VLM_IMAGES names .*gone", capsys.readouterr().out, re.M)
