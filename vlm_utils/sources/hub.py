"""Files of the Hugging Face hub: from the local cache, else the network, else a clear error.

Libraries are imported where they are used: `doctor` looks at files on machines where one of them is
missing or broken, and a library that cannot be loaded must not pass for a damaged file.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
from dataclasses import replace
from pathlib import Path

from vlm_utils.profiles import HubRepository, Profile

PREFETCH = "VLM_PROFILE=full python -m vlm_utils prefetch"


COMMIT = re.compile("[0-9a-f]{40}")
_RECORD = "course_commit"       # in a repository's folder of the cache, beside refs and snapshots


class MissingFiles(FileNotFoundError):
    """Files of the hub that are neither in the cache nor to be had from the network."""


def repositories(profile: Profile) -> list[HubRepository]:
    """What a profile reads from the hub; nothing for the embedded one."""
    wanted = (profile.vision_encoder, profile.language_model, profile.dataset)
    return [repository for repository in wanted if repository is not None]


def fetch(repository: HubRepository) -> Path:
    """The folder of a repository's files at its pinned revision.

    A whole copy in the local cache is used without a network attempt. Raises MissingFiles, naming
    what is missing and the command that fetches it, if there is neither cache nor network.
    """
    cached = in_cache(repository)
    if cached is not None:
        return cached
    from huggingface_hub import HfApi, snapshot_download
    try:
        # Asked once first: without a network, a download keeps trying for half a minute.
        info = HfApi().repo_info(repository.repo_id, revision=repository.revision,
                                 repo_type=repository.repo_type, timeout=10)
        at = settle(repository, info.sha)
        folder = Path(snapshot_download(
            at.repo_id, revision=at.revision, repo_type=at.repo_type,
            allow_patterns=list(at.patterns)))
        if not is_whole(repository, folder):  # the network went away in between
            raise FileNotFoundError(folder)
        return folder
    except Exception as error:
        raise MissingFiles(
            f"{repository.repo_type} {repository.repo_id} (revision {repository.revision[:12]}) is "
            f"not in the local cache, and {why_not(error, repository)}. "
            f"With a network, run:  {PREFETCH}") from error


def pinned(repository: HubRepository, folder: Path | None = None) -> HubRepository:
    """The repository at one commit: its own, or, if it names a branch, the one that was fetched
    first into this cache. As it is if nothing was fetched yet.

    A branch moves: without this, two machines, or one machine on two days, would have other data.
    """
    record = commit_record(repository, folder)
    if COMMIT.fullmatch(repository.revision) or not record.is_file():
        return repository
    commit = record.read_text(encoding="utf-8").strip()
    return replace(repository, revision=commit) if COMMIT.fullmatch(commit) else repository


def settle(repository: HubRepository, commit: str, folder: Path | None = None) -> HubRepository:
    """`pinned`; if there is no commit yet, this one is recorded and holds from now on."""
    settled = pinned(repository, folder)
    if not COMMIT.fullmatch(settled.revision):
        record = commit_record(repository, folder)
        record.parent.mkdir(parents=True, exist_ok=True)
        record.write_text(f"{commit}\n", encoding="utf-8")
        settled = replace(repository, revision=commit)
    return settled


def commit_record(repository: HubRepository, folder: Path | None = None) -> Path:
    """The file of a cache that says at which commit a repository was fetched."""
    name = f"{repository.repo_type}s--{repository.repo_id.replace('/', '--')}"
    return cache_folder(folder) / name / _RECORD


def why_not(error: BaseException, repository: HubRepository) -> str:
    """Why the hub did not give a repository, and what to do: the end of a sentence.

    The hub's library wraps errors in others: the innermost one that is known decides.
    """
    chain: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None:
        chain.append(cause)
        cause = cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)
    found = next((said for each in reversed(chain) if (said := _known(each, repository))), None)
    return found or f"the hub's library failed ({type(error).__name__}: {error})"


def _known(error: BaseException, repository: HubRepository) -> str | None:
    from huggingface_hub import errors
    page = f"https://huggingface.co/{'datasets/' * (repository.repo_type == 'dataset')}" \
           f"{repository.repo_id}"
    if isinstance(error, errors.OfflineModeIsEnabled):
        return "the network is switched off by HF_HUB_OFFLINE: unset it to download"
    if isinstance(error, errors.GatedRepoError):
        return (f"the hub gives it only to people its owner has let in: ask for access at {page}, "
                "run: hf auth login, and then this command again")
    if isinstance(error, errors.RevisionNotFoundError):
        return (f"the hub has no revision {repository.revision[:12]} of it: correct it in "
                "vlm_utils/profiles.py")
    if isinstance(error, errors.RepositoryNotFoundError):
        return (f"the hub has nothing public of this name ({page}): correct it in "
                "vlm_utils/profiles.py, or, if it is private, run: hf auth login")
    if isinstance(error, errors.RemoteEntryNotFoundError):
        return f"a file that the hub lists is not there (404: {error.response.url.path}): try later"
    if isinstance(error, errors.HfHubHTTPError):
        return _status(error.response)
    return _line(error)


def _line(error: BaseException) -> str | None:
    """What went wrong on the way or here, if it is that."""
    name = type(error).__name__         # of the library that huggingface_hub speaks HTTP with
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return "the disk is full: make room, or choose another place with --folder"
    if "Consistency check failed" in str(error):
        return "a file arrived with another size than the hub had said: run the same command again"
    if name in ("RemoteProtocolError", "ReadError"):
        return "the connection was cut again and again: run the same command again"
    if name in ("ConnectError", "ConnectTimeout", "ReadTimeout", "gaierror", "ProxyError"):
        return (f"the hub cannot be reached ({name}): look at the network, and at HF_ENDPOINT and "
                "HTTPS_PROXY if they are set")
    return None


def _status(response) -> str:
    """What an HTTP status means to the one who wanted to download."""
    status = response.status_code
    if status == 429:
        seconds = response.headers.get("Retry-After", "")
        wait = f"{seconds} seconds" if seconds.isdigit() else "some minutes"
        return (f"the hub has had too many requests from this network (429): wait {wait} and run "
                "the same command again")
    if status >= 500:
        return f"the hub has a fault of its own ({status}): run the same command again later"
    if status in (401, 403):
        return (f"the hub refuses ({status}): if a token is set (HF_TOKEN, hf auth login), it is "
                "not valid for this: renew or remove it")
    return f"the hub answers {status} to {response.url.path}"


def fetch_all(wanted: list[HubRepository]) -> list[Path]:
    """Folders of several repositories. Raises MissingFiles naming all that are missing at once."""
    folders, missing = [], []
    for repository in wanted:
        try:
            folders.append(fetch(repository))
        except MissingFiles as error:
            missing.append(str(error))
    if missing:
        raise MissingFiles("\n".join(missing))
    return folders


def in_cache(repository: HubRepository, folder: Path | None = None) -> Path | None:
    """The cached folder of a repository, or None if a file of a kind it needs is missing.

    folder: a cache in the hub's layout, as `prefetch` fills it; by default the hub's own.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError
    repository = pinned(repository, folder)
    try:
        found = Path(snapshot_download(
            repository.repo_id, revision=repository.revision, repo_type=repository.repo_type,
            allow_patterns=list(repository.patterns), cache_dir=folder, local_files_only=True))
    except LocalEntryNotFoundError:
        return None
    return found if is_whole(repository, found) else None


def cache_folder(folder: Path | None = None) -> Path:
    """The folder, or else the hub's own cache, which HF_HUB_CACHE or HF_HOME may have moved."""
    if folder is None:
        from huggingface_hub import constants
        folder = Path(constants.HF_HUB_CACHE)
    return Path(folder).expanduser().resolve()


def free_bytes(folder: Path) -> int:
    """Free space where a folder is, or will be."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def damaged(folder: Path) -> list[str]:
    """Files of a folder that are there and cannot be read, as after a copy that was cut short."""
    # Behind linked folders too, which Path.rglob passes by.
    files = (Path(parent) / name for parent, _, names in os.walk(folder, followlinks=True)
             for name in names)
    return sorted(str(path.relative_to(folder)) for path in files
                  if path.is_file() and not _is_readable(path))


def _is_readable(path: Path) -> bool:
    """Is it what its name says, as far as its beginning and its end tell? Weights are not read."""
    try:
        if path.suffix == ".json":
            json.loads(path.read_text(encoding="utf-8"))
        elif path.suffix == ".parquet":
            from pyarrow import parquet
            parquet.read_metadata(path)
        elif path.suffix == ".safetensors":
            from safetensors import safe_open
            with safe_open(path, "np"):     # without torch, whose faults are not the file's
                pass
    except ImportError:                     # the library is broken, not the file
        raise
    except Exception:                       # each library has errors of its own for the same fact
        return False
    return True


def is_whole(repository: HubRepository, folder: Path) -> bool:
    """Weights, configuration and tokenizer or preprocessing, or all data files of each split."""
    if repository.repo_type == "dataset":
        return all(_has_all_files(folder, split) for split in ("train", "validation", "test"))
    reads = (folder / name for name in ("tokenizer.json", "preprocessor_config.json"))
    return ((folder / "config.json").is_file() and bool(list(folder.glob("*.safetensors")))
            and any(file.is_file() for file in reads))


def _has_all_files(folder: Path, split: str) -> bool:
    """Are there as many data files as their names, train-00000-of-00002, say?"""
    files = [file.name for file in folder.glob(f"data/{split}-*.parquet")]
    total = re.search(r"-of-(\d+)", files[0]) if files else None
    return bool(files) and (total is None or len(files) == int(total[1]))
