"""`python -m vlm_utils prefetch` against a server that answers as the hub does, in every mood.

Each trouble gets a sentence that is true and says what to do.
"""

import hashlib
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import datasets
import huggingface_hub
import pytest
from hub_cache import write_miniature
from hub_server import HubServer, Trouble

from vlm_utils.course.prefetch import prefetch
from vlm_utils.datasets import load_image_table
from vlm_utils.loading import load_base_model
from vlm_utils.profiles import PROFILES, REPOSITORY
from vlm_utils.sources.hub import MissingFiles, commit_record, fetch, in_cache, repositories

FULL = PROFILES["full"]
FIRST, SECOND = "a" * 40, "b" * 40          # commits of the data set, which names a branch


@pytest.fixture(scope="module")
def content(tmp_path_factory):
    """What the repositories hold: a cache that `prefetch` should make anew."""
    folder = tmp_path_factory.mktemp("content")
    write_miniature(folder, FULL, {"train": 8, "validation": 4, "test": 4})
    return folder


def files_of(content: Path, repository) -> Path:
    return next(content.glob(f"*{repository.repo_id.replace('/', '--')}/snapshots/*"))


@pytest.fixture
def hub(content, tmp_path, monkeypatch):
    """The server, with the library turned to it, an empty cache, and no waiting between tries."""
    with HubServer() as server:
        for repository in repositories(FULL):
            commit = FIRST if repository.revision == "main" else repository.revision
            server.add(repository, files_of(content, repository), commit)
        constants = huggingface_hub.constants
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE",
                            server.url + "/{repo_id}/resolve/{revision}/{filename}")
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
        monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")
        monkeypatch.setattr(time, "sleep", lambda seconds: None)
        for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "HF_TOKEN"):
            monkeypatch.delenv(name, raising=False)
            monkeypatch.delenv(name.lower(), raising=False)
        yield server
    huggingface_hub.close_session()


def test_a_whole_download_and_then_the_course_without_a_network(hub, tmp_path, monkeypatch, capsys):
    assert prefetch(FULL) == 0
    said = capsys.readouterr().out
    assert said.count(" MB in ") == 3 and said.endswith("everything is there\n")
    asked = [path for method, path in hub.requests if method == "GET"]
    assert any(path.startswith("/cdn/") for path in asked)          # large files, by a redirect
    assert not any(".gitattributes" in path for path in asked)
    hub.requests.clear()
    assert prefetch(FULL) == 0
    assert capsys.readouterr().out.count("in the cache") == 3
    model, processor = load_base_model(FULL)
    assert processor.tokens_per_image == 49
    assert len(load_image_table(FULL, "train")) == 8
    assert hub.requests == []


def test_the_command_downloads_from_the_endpoint_that_is_set(hub, tmp_path):
    environment = os.environ | {"HF_ENDPOINT": hub.url, "PYTHONPATH": str(REPOSITORY),
                                "HF_HUB_OFFLINE": "0", "NO_PROXY": "127.0.0.1"}
    command = [sys.executable, "-m", "vlm_utils", "prefetch", "--folder", str(tmp_path / "stick")]
    done = subprocess.run(command, env=environment, cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert all(in_cache(each, tmp_path / "stick") for each in repositories(FULL))


def test_a_connection_that_breaks_is_taken_up_where_it_broke(hub, content):
    hub.trouble.append(Trouble("/cdn/", cut=1000, times=2))
    assert prefetch(FULL) == 0
    for repository in repositories(FULL):
        for file in files_of(content, repository).rglob("*"):
            if file.is_file():
                name = file.relative_to(files_of(content, repository))
                assert (fetch(repository) / name).read_bytes() == file.read_bytes()


def test_a_line_that_always_breaks_is_said_and_what_has_arrived_is_kept(hub, capsys):
    """The hub's library keeps whole files only: it does not go on in the middle of one."""
    hub.trouble.append(Trouble("/cdn/", cut=0))
    assert prefetch(FULL) == 1
    said = capsys.readouterr().out
    assert ("google/vit-base-patch16-224 cannot be fetched: the connection was cut again and "
            "again: run the same command again; files that have arrived are kept") in said
    hub.trouble.clear()
    hub.requests.clear()
    assert prefetch(FULL) == 0
    assert re.search(r"vit-base-patch16-224: \d+ MB in 1 files, 2 files are there",
                     capsys.readouterr().out)
    assert not any("vit-base" in path and path.endswith("config.json")
                   for method, path in hub.requests if method == "GET")


@pytest.mark.parametrize(("trouble", "sentence"), [
    (Trouble("SmolLM-135M/revision", 401, {"X-Error-Code": "GatedRepo"}),
     "model HuggingFaceTB/SmolLM-135M cannot be fetched: the hub gives it only to people its "
     "owner has let in: ask for access at https://huggingface.co/HuggingFaceTB/SmolLM-135M, run: "
     "hf auth login, and then this command again"),
    (Trouble("SmolLM-135M/resolve", 403, {"X-Error-Code": "GatedRepo"}),
     "only to people its owner has let in"),
    (Trouble("flickr8k/revision", 401, {"X-Error-Code": "RepoNotFound"}),
     "dataset jxie/flickr8k cannot be fetched: the hub has nothing public of this name "
     "(https://huggingface.co/datasets/jxie/flickr8k)"),
    (Trouble("SmolLM-135M/revision", 404, {"X-Error-Code": "RevisionNotFound"}),
     "the hub has no revision 1d461723eec6 of it: correct it in vlm_utils/profiles.py"),
    (Trouble("resolve/" + FIRST, 404, {"X-Error-Code": "EntryNotFound"}),
     "a file that the hub lists is not there (404: /datasets/jxie/flickr8k/resolve/aaa"),
    (Trouble("/api/", 429, {"Retry-After": "120"}),
     "the hub has had too many requests from this network (429): wait 120 seconds and run the "
     "same command again"),
    (Trouble("/cdn/", 429), "too many requests from this network (429): wait some minutes"),
    (Trouble("/api/", 503), "the hub has a fault of its own (503): run the same command again"),
    (Trouble("/api/", 401, {"X-Error-Message": "Invalid credentials in Authorization header"}),
     "the hub refuses (401): if a token is set (HF_TOKEN, hf auth login), it is not valid"),
    (Trouble("/api/", 418), "the hub answers 418 to /api/models/google/"),
])
def test_each_refusal_has_a_sentence_that_says_what_to_do(hub, capsys, trouble, sentence):
    hub.trouble.append(trouble)
    assert prefetch(FULL) == 1
    said = capsys.readouterr().out
    assert sentence in said.split("\n")[-2], said
    assert "Traceback" not in said and "everything is there" not in said
    repository = FULL.dataset if "flickr" in sentence else FULL.language_model
    if any(word in trouble.path for word in repository.repo_id.split("/")):
        with pytest.raises(MissingFiles, match=re.escape(sentence.split(": ", 1)[-1][:40])):
            fetch(repository)               # a lesson that is run without prefetch says the same


def test_no_server_at_all_is_said(hub, monkeypatch, capsys):
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    assert prefetch(FULL) == 1
    assert "the hub cannot be reached (ConnectError): look at the network" in \
        capsys.readouterr().out


def test_offline_mode_is_named_as_what_it_is(hub, monkeypatch, capsys):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert prefetch(FULL) == 1
    assert "switched off by HF_HUB_OFFLINE: unset it" in capsys.readouterr().out
    assert hub.requests == []


# --- a data set that is pinned to a branch -------------------------------------------------------

def other_content(content: Path, tmp_path: Path) -> Path:
    """The data set with other words in it."""
    from datasets import Dataset
    source, folder = files_of(content, FULL.dataset), tmp_path / "other"
    for file in source.rglob("*.parquet"):
        (folder / "data").mkdir(parents=True, exist_ok=True)
        rows = Dataset.from_parquet(str(file))
        Dataset.from_list([row | {"caption_0": "Other words ."} for row in rows],
                          features=rows.features).to_parquet(folder / "data" / file.name)
    return folder


def test_a_data_set_that_changes_between_two_tries_stays_what_it_was_at_the_first(
        hub, content, tmp_path, capsys):
    """A trap: half of the files of one commit, half of the next."""
    hub.trouble.append(Trouble("resolve/" + FIRST + "/data/train", status=500))
    assert prefetch(FULL) == 1
    hub.trouble.clear()
    hub.add(FULL.dataset, other_content(content, tmp_path), SECOND)
    capsys.readouterr()
    assert prefetch(FULL) == 0
    said = capsys.readouterr().out
    record = commit_record(FULL.dataset)
    assert f"main has moved on to {SECOND}; the course stays with the commit" in said
    assert f"remove {record} and run the same command again" in said
    assert record.read_text().strip() == FIRST == fetch(FULL.dataset).name
    captions = load_image_table(FULL, "train").truth.captions
    assert captions[0][0] == "A train dog 0 runs , wording 0 ."
    record.unlink()
    (record.parent / "refs" / "main").unlink(missing_ok=True)
    assert prefetch(FULL) == 0
    assert record.read_text().strip() == SECOND == fetch(FULL.dataset).name
    assert load_image_table(FULL, "train").truth.captions[0][0] == "Other words ."


def test_another_program_that_moves_the_branch_moves_nothing_here(hub, content, tmp_path):
    assert prefetch(FULL) == 0
    hub.add(FULL.dataset, other_content(content, tmp_path), SECOND)
    huggingface_hub.snapshot_download(FULL.dataset.repo_id, repo_type="dataset")
    assert (commit_record(FULL.dataset).parent / "refs" / "main").read_text() == SECOND
    assert fetch(FULL.dataset).name == FIRST


def test_a_cache_from_before_commits_were_recorded_gets_its_record(hub, content, tmp_path):
    assert prefetch(FULL) == 0
    record = commit_record(FULL.dataset)
    record.unlink()
    (record.parent / "refs").mkdir(exist_ok=True)
    (record.parent / "refs" / "main").write_text(FIRST)
    hub.add(FULL.dataset, other_content(content, tmp_path), SECOND)
    assert prefetch(FULL) == 0
    assert record.read_text().strip() == FIRST


def test_a_lesson_that_downloads_by_itself_records_the_commit_too(hub):
    assert fetch(FULL.dataset).name == FIRST
    assert commit_record(FULL.dataset).read_text().strip() == FIRST


def test_the_commit_that_was_fetched_first_may_be_gone(hub, content, tmp_path, capsys):
    hub.trouble.append(Trouble("resolve/" + FIRST, status=500))
    assert prefetch(FULL) == 1
    hub.trouble.clear()
    del hub.commits["dataset", "jxie/flickr8k"][FIRST]
    hub.add(FULL.dataset, other_content(content, tmp_path), SECOND)
    capsys.readouterr()
    assert prefetch(FULL) == 1
    said = capsys.readouterr().out
    assert f"the commit {FIRST}, which was fetched first, is gone from it" in said
    assert f"to take another, remove {commit_record(FULL.dataset)}" in said


def test_a_content_that_is_not_the_announced_one_is_refused_and_removed(hub, capsys):
    """Of the right size: the hub's library does not look any closer."""
    files = hub.commits["dataset", "jxie/flickr8k"][FIRST]
    name = "data/test-00000-of-00001.parquet"
    digest = hashlib.sha256(files[name]).hexdigest()
    hub.contents[digest] = bytes(len(files[name]))
    assert prefetch(FULL) == 1
    said = capsys.readouterr().out
    assert "test-00000-of-00001.parquet arrived with other content" in said
    assert in_cache(FULL.dataset) is None
    hub.contents[digest] = files[name]
    assert prefetch(FULL) == 0


def test_a_file_of_another_size_than_announced_is_refused(hub, capsys):
    weights = hub.commits["model", FULL.language_model.repo_id][FULL.language_model.revision]
    digest = hashlib.sha256(weights["model.safetensors"]).hexdigest()
    hub.contents[digest] = weights["model.safetensors"] + b"more"
    assert prefetch(FULL) == 1
    assert "arrived with another size than the hub had said" in capsys.readouterr().out
    assert in_cache(FULL.language_model) is None
