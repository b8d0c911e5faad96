"""Files of the Hugging Face hub: from the local cache, else the network, else a clear error.

Libraries are imported where they are used: `doctor` looks at files on machines where one of them is
missing or broken, and a library that cannot be loaded must not pass for a damaged file.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path

from vlm_utils.profiles import HubRepository, Profile

PREFETCH = "VLM_PROFILE=full python -m vlm_utils prefetch"


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
        HfApi().repo_info(repository.repo_id, revision=repository.revision,
                          repo_type=repository.repo_type, timeout=10)
        folder = Path(snapshot_download(
            repository.repo_id, revision=repository.revision, repo_type=repository.repo_type,
            allow_patterns=list(repository.patterns)))
        if not is_whole(repository, folder):  # the network went away in between
            raise FileNotFoundError(folder)
        return folder
    except Exception as error:
        raise MissingFiles(
            f"{repository.repo_type} {repository.repo_id} (revision {repository.revision[:12]}) is "
            f"not in the local cache, and the hub cannot be reached ({type(error).__name__}). "
            f"With a network, run:  {PREFETCH}") from error


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
