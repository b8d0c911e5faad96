"""Samples from shards: each once an epoch, over all processes, whatever is interrupted when."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from itertools import islice

import pytest
import torch
from datasets import load_dataset
from hypothesis import example, given, settings
from hypothesis import strategies as st

from vlm_utils.collate import collate
from vlm_utils.datasets import build_tasks, encode_samples
from vlm_utils.profiles import REPOSITORY
from vlm_utils.scaling import SampleStream, encode_parts, estimate_features, write_shards
from vlm_utils.training import encode_table

COUNT, SHARDS = 26, 4


@pytest.fixture(scope="module")
def dataset(earth_table):
    return build_tasks(earth_table, {"select 3": 12, "describe 1": 7, "compare 2": 7}, seed=0)


@pytest.fixture(scope="module")
def folder(dataset, tmp_path_factory):
    return write_shards(dataset, tmp_path_factory.mktemp("stream") / "shards", SHARDS)


@pytest.fixture(scope="module")
def uneven(dataset, tmp_path_factory):
    """The same samples in numbers of shards that two processes cannot share evenly."""
    place = tmp_path_factory.mktemp("uneven")
    return {shards: write_shards(dataset, place / str(shards), shards) for shards in (1, 3)}


def keys(samples) -> list[str]:
    return [sample.source.split()[-1] for sample in samples]


# --- writing -------------------------------------------------------------------------------------

def test_what_is_read_is_what_was_written(dataset, folder):
    """Every picture to the bit, prompt, answer and task, with one to three images a sample."""
    samples = list(SampleStream(folder))
    read = dict(zip(keys(samples), samples, strict=True))
    assert len(read) == len(dataset) == COUNT
    for i in range(len(dataset)):
        there, here = read[f"{i:08d}"], dataset.with_images(i)
        assert (there.prompt, there.answer, there.task) == (here.prompt, here.answer, here.task)
        assert [p.tobytes() for p in there.images] == [p.tobytes() for p in here.images]


def test_the_library_alone_refuses_samples_of_different_numbers_of_images(folder):
    """A trap: it looks at the first five samples of a tar and expects all to be like the first."""
    with pytest.raises(ValueError, match="don't share the same prefix or the same types"):
        load_dataset("webdataset", data_files={"train": [str(folder / "shard-*.tar")]},
                     split="train", streaming=True)


def test_shards_are_equal_to_within_a_sample_and_other_tools_can_read_them(folder):
    import tarfile
    lengths = []
    for path in sorted(folder.glob("*.tar")):
        with tarfile.open(path) as tar:
            names = tar.getnames()
        lengths.append(len({name.split(".")[0] for name in names}))
        assert all(name.split(".", 1)[1] in ("json", "1.png", "2.png", "3.png") for name in names)
    assert sum(lengths) == COUNT and max(lengths) - min(lengths) <= 1 and len(lengths) == SHARDS


def test_what_cannot_be_written_or_read_is_said(dataset, folder, tmp_path):
    with pytest.raises(FileExistsError, match="give another folder, or remove it"):
        write_shards(dataset, folder, 2)
    for shards in (0, COUNT + 1):
        with pytest.raises(ValueError, match=f"make 1 to {COUNT} shards, not {shards}"):
            write_shards(dataset, tmp_path / "x", shards)
    with pytest.raises(FileNotFoundError, match="no shards in .*: shards.json is missing"):
        SampleStream(tmp_path)
    for wrong in ({"process": 2, "processes": 2}, {"buffer": 0}):
        with pytest.raises(ValueError, match="processes are numbered"):
            SampleStream(folder, **wrong)


def test_a_folder_with_brackets_is_a_folder_like_any_other(dataset, tmp_path):
    """A trap: the library takes [1] in a path for a pattern, and finds nothing."""
    folder = write_shards(dataset, tmp_path / "run [1]", 2)
    assert len(list(SampleStream(folder))) == COUNT


# --- order ---------------------------------------------------------------------------------------

@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("processes", [2, 5])
def test_a_single_file_is_shared_out_too_each_sample_once(uneven, shards, processes):
    streams = [SampleStream(uneven[shards], 4, process=p, processes=processes)
               for p in range(processes)]
    for _ in range(2):
        parts = [keys(stream) for stream in streams]
        assert Counter(key for part in parts for key in part) == Counter(
            f"{i:08d}" for i in range(COUNT))
        assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_with_fewer_samples_than_processes_some_have_none(dataset, tmp_path):
    few = write_shards(replace(dataset, recipes=dataset.recipes[:3]), tmp_path / "few", 1)
    counts = [len(list(SampleStream(few, process=p, processes=5))) for p in range(5)]
    assert sorted(counts) == [0, 0, 1, 1, 1]


@pytest.mark.parametrize("processes", [1, 2, 3, 4])
@pytest.mark.parametrize("buffer", [1, 5, 100])
def test_each_sample_once_an_epoch_over_all_processes(folder, processes, buffer):
    """Also if the shards do not divide among the processes."""
    for _ in range(2):
        streams = [SampleStream(folder, buffer, seed=3, process=p, processes=processes)
                   for p in range(processes)]
        for _ in range(2):
            assert Counter(key for stream in streams for key in keys(stream)) == Counter(
                f"{i:08d}" for i in range(COUNT))


def test_the_order_is_another_in_each_epoch_and_the_same_for_the_same_seed(folder):
    stream = SampleStream(folder, buffer=8, seed=1)
    epochs = [keys(stream) for _ in range(3)]
    again = SampleStream(folder, buffer=8, seed=1)
    assert [keys(again) for _ in range(3)] == epochs
    assert len(set(map(tuple, epochs))) == 3 and epochs[0] != sorted(epochs[0])
    assert keys(SampleStream(folder, buffer=8, seed=2)) != epochs[0]


def test_no_more_than_a_buffer_of_samples_is_read_ahead(folder):
    stream = SampleStream(folder, buffer=5)
    iterator = iter(stream)
    for taken in range(1, 12):
        next(iterator)
        assert stream.before["examples_iterable"]["shard_example_idx"] <= taken


# --- resuming ------------------------------------------------------------------------------------

@settings(max_examples=30)
@example(stops=[4, 1], buffer=3, process=0, shards=SHARDS)      # twice in the same buffer
@given(stops=st.lists(st.integers(0, 30), min_size=1, max_size=3), buffer=st.integers(1, 12),
       process=st.integers(0, 1), shards=st.sampled_from([1, 3, SHARDS]))
def test_stopped_anywhere_and_resumed_nothing_is_lost_or_repeated(folder, uneven, stops, buffer,
                                                                  process, shards):
    """Also if the shards do not divide: then each process reads all of them, and skips."""
    def stream():
        return SampleStream(folder if shards == SHARDS else uneven[shards], buffer, seed=5,
                            process=process, processes=2)

    straight = stream()
    expected = keys(straight) + keys(straight) + keys(straight)
    found, state = [], None
    for stop in stops:
        now = stream()
        if state is not None:
            now.load_state_dict(json.loads(json.dumps(state)))
        found += keys(islice(iter(now), stop))
        state = now.state_dict()
    last = stream()
    last.load_state_dict(state)
    while len(found) < len(expected):
        found += keys(last)
    assert found[:len(expected)] == expected


def test_the_buffer_of_the_library_loses_what_is_in_it(folder):
    """Why this one is not the library's. If this test fails, the library has learnt it."""
    def rows():
        return SampleStream(folder).rows_of(0).shuffle(seed=1, buffer_size=8)

    first = rows()
    taken = [row["__key__"] for row in islice(first, 7)]
    second = rows()
    second.load_state_dict(first.state_dict())
    lost = COUNT - len(set(taken + [row["__key__"] for row in second]))
    assert lost > 0


def test_another_stream_does_not_go_on_from_this_one(folder):
    state = SampleStream(folder, buffer=5, processes=2).state_dict()
    with pytest.raises(ValueError, match=r"\{'processes': \(2, 3\)\}"):
        SampleStream(folder, buffer=5, processes=3).load_state_dict(state)
    with pytest.raises(ValueError, match=r"'buffer': \(5, 6\), 'process': \(0, 1\)"):
        SampleStream(folder, buffer=6, process=1, processes=2).load_state_dict(state)


def test_batches_of_a_stream_train_a_model(folder, processor, model):
    """What comes out is what the collator takes; helpers of a loader would not know the place."""
    loader = torch.utils.data.DataLoader(
        SampleStream(folder, buffer=8), batch_size=4, drop_last=True,
        collate_fn=lambda samples: collate(encode_samples(samples, processor),
                                           processor.pad_token_id))
    losses = [model.train()(**batch).loss for batch in loader]
    assert len(losses) == COUNT // 4 and all(loss.isfinite() for loss in losses)
    with pytest.raises(RuntimeError, match="num_workers=0"):
        list(torch.utils.data.DataLoader(SampleStream(folder), batch_size=None, num_workers=1))


# --- features in parts ---------------------------------------------------------------------------

def test_parts_are_the_features_that_one_file_would_hold(earth_table, model, processor, tmp_path):
    whole = encode_table(earth_table, model, processor, folder=tmp_path)
    for images in (7, 64, 10_000):
        parts = encode_parts(earth_table, model, processor, images, folder=tmp_path)
        rows = list(range(len(earth_table)))[::-3]
        assert len(parts) == len(whole) and torch.equal(parts[rows], whole[rows])
        assert parts.fingerprint == whole.fingerprint
    with pytest.raises(ValueError, match="at least 1 image, not 0"):
        encode_parts(earth_table, model, processor, 0, folder=tmp_path)


def test_parts_that_are_there_are_not_made_again(earth_table, make_model, processor, tmp_path,
                                                 monkeypatch):
    model = make_model()
    encode_parts(earth_table, model, processor, 50, folder=tmp_path)
    first, *others = sorted(tmp_path.glob("*/part-*"))
    (first / "features.arrow").write_bytes(b"damaged")
    encoded = []
    real = type(model).encode_images
    monkeypatch.setattr(type(model), "encode_images",
                        lambda self, pixels: encoded.append(len(pixels)) or real(self, pixels))
    parts = encode_parts(earth_table, model, processor, 50, folder=tmp_path)
    assert sum(encoded) == 50 and len(parts) == len(earth_table) and len(others) > 1


PROGRAM = """
import sys, time
from pathlib import Path
from small_runs import small_dataset, small_model, small_processor
from vlm_utils.scaling import encode_parts
model, table = small_model(), small_dataset().table
real = model.encode_images
def slowly(pixels):
    with open(sys.argv[2], "a") as log:
        log.write(f"{len(pixels)}\\n")
    time.sleep(float(sys.argv[3]))
    return real(pixels)
model.encode_images = slowly
features = encode_parts(table, model, small_processor(), 2, folder=Path(sys.argv[1]))
print(features[list(range(len(table)))].double().sum().item())
"""


def start(folder, log, seconds):
    environment = os.environ | {"PYTHONPATH": f"{REPOSITORY}{os.pathsep}{REPOSITORY / 'tests'}",
                                "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([sys.executable, "-c", PROGRAM, str(folder), str(log), str(seconds)],
                            env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                            text=True)


def finish(process) -> str:
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    return out.split()[-1]


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGKILL")
def test_after_a_kill_two_processes_do_what_is_left_and_nothing_twice(tmp_path):
    """16 images in 8 parts. One process is killed in the third; two others share the rest."""
    log = tmp_path / "log"
    killed = start(tmp_path, log, 0.2)
    deadline = time.monotonic() + 120
    while not log.exists() or len(log.read_text().split()) < 3:
        assert killed.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    made = len(list(tmp_path.glob("*/part-*[0-9]")))
    assert 0 < made < 8
    begun = len(log.read_text().split())
    both = [start(tmp_path, log, 0.2) for _ in range(2)]
    sums = {finish(process) for process in both}
    assert len(log.read_text().split()) - begun == 8 - made
    assert sums == {finish(start(tmp_path / "fresh", log, 0))}
    assert not list(tmp_path.glob("*/*.unfinished"))


def test_a_million_images_from_what_a_few_took():
    found = estimate_features(1_000_000, 0.3, 100, price_per_hour=2.0, price_per_gb_month=0.02)
    assert found.gigabytes == 300 and found.hours == pytest.approx(2.7778, abs=1e-3)
    assert found.computing == pytest.approx(5.5556, abs=1e-3) and found.storing == 6.0
    with pytest.raises(ValueError, match="measure first"):
        estimate_features(10, 0.3, 0)
