"""Each line of `python -m vlm_utils doctor`: right where all is well, and with each fault."""

import os
import re
import shutil
import sys
from collections import namedtuple
from dataclasses import replace
from pathlib import Path

import huggingface_hub
import psutil
import pytest
import torch
from conftest import into_hub_cache, write_flickr

from vlm_utils import profiles
from vlm_utils.course import doctor
from vlm_utils.profiles import get_profile

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
    assert names == ["python", "packages", "jupyter kernel", "device", "memory", "build folder",
                     "data sets' cache", "disk", "embedded files", "hub's cache",
                     "vit-base-patch16-224", "SmolLM-135M", "flickr8k"]
    assert {line[:9].strip() for line in lines[:-1]} <= {"ok", "note"}
    assert lines[-1] == "profile tiny: ready"


def test_the_full_profile_without_its_files_is_not_ready(capsys):
    assert doctor.examine(FULL) == 1
    said = capsys.readouterr().out
    assert len(re.findall(r"^MISSING .*prefetch$", said, re.M)) == 3
    assert "profile full: 3 missing" in said


def test_an_old_python_is_refused():
    assert level(doctor.python((3, 9, 1))) == "MISSING"
    assert level(doctor.python((3, 10, 0))) == level(doctor.python()) == "ok"


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
    assert kind != "cuda" or found.text == "A GPU, 30.0 of 40.0 GB free"


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


def test_a_folder_that_cannot_be_written_to_is_missing(monkeypatch, tmp_path):
    blocked = tmp_path / "a file"
    blocked.write_text("no folder")         # for the superuser, too, no folder to write into
    monkeypatch.setenv("VLM_OUTPUT", str(blocked))
    build, datasets = doctor.write_access()
    assert level(build) == "MISSING" and "VLM_OUTPUT" in build.text
    assert level(datasets) == "ok"
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", blocked / "datasets")
    assert level(list(doctor.write_access())[1]) == "MISSING"
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
