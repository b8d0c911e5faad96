"""Files of the Hugging Face hub: from the local cache, else the network, else a clear error."""

from __future__ import annotations

import re
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
    what is missing and the command that fetches it, where there is neither cache nor network.
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
    """The cached folder of a repository, or None where a file of a kind it needs is missing.

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


def damaged(folder: Path) -> list[str]:
    """Files of a folder that are there and cannot be read, as after a copy that was cut short."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*")
                  if path.is_file() and not _is_readable(path))


def _is_readable(path: Path) -> bool:
    """Is it what its name says, as far as its beginning and its end tell? Weights are not read."""
    import json
    try:
        if path.suffix == ".json":
            json.loads(path.read_text(encoding="utf-8"))
        elif path.suffix == ".parquet":
            from pyarrow import parquet
            parquet.read_metadata(path)
        elif path.suffix == ".safetensors":
            from safetensors import safe_open
            with safe_open(path, "pt"):
                pass
    except Exception:               # each library has errors of its own for the same fact
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


def prefetch(profile: Profile, folder: Path | None = None) -> int:
    """Download what a profile needs; 0 where all of it is there in the end, else 1.

    folder: where to, in the layout of the hub's cache; by default the hub's own cache.
    Says first what is missing and how large it is. Interrupted, it goes on where it stopped when
    it is run again. Files that are there and damaged are fetched anew.
    """
    wanted = repositories(profile)
    if not wanted:
        print(f"profile {profile.name}: everything is embedded, nothing to fetch")
        return 0
    target = cache_folder(folder)
    try:
        missing = {repository: size for repository in wanted
                   if (size := _announce_size(repository, folder)) is not None}
        total, free = sum(missing.values()), free_bytes(target)
        if missing:
            print(f"{total / 1e6:.0f} MB to download into {target}, where {free / 1e6:.0f} MB are "
                  "free", flush=True)
        if total > free:
            print("that is not enough: make room, or choose another place with --folder")
            return 1
        for number, repository in enumerate(missing, start=1):
            print(f"[{number}/{len(missing)}] {repository.repo_id} ...", flush=True)
            _download(repository, folder)
    except _Failed as error:
        print(error)
        return 1
    except KeyboardInterrupt:
        print("interrupted: run the same command again, and it goes on where it stopped")
        return 1
    print("everything is there")
    if folder is not None:
        print(f"on the machine without a network, set HF_HUB_CACHE to its copy of {target}")
    return 0


def cache_folder(folder: Path | None = None) -> Path:
    """The folder, or else the hub's own cache, which HF_HUB_CACHE or HF_HOME may have moved."""
    from huggingface_hub import constants
    return Path(folder or constants.HF_HUB_CACHE).expanduser().resolve()


class _Failed(Exception):
    """Why a repository could not be fetched, in one line."""


def _announce_size(repository: HubRepository, folder: Path | None) -> int | None:
    """Say what of a repository is left to download; bytes, or None where all of it is there."""
    where = f"{repository.repo_type} {repository.repo_id}"
    cached = in_cache(repository, folder)
    broken = damaged(cached) if cached is not None else []
    if cached is not None and not broken:
        print(f"{where}: in the cache")
        return None
    for name in broken:             # the hub takes every file that is there for a good one
        (cached / name).resolve().unlink()
        (cached / name).unlink(missing_ok=True)
        print(f"{where}: {name} is damaged")
    try:
        from huggingface_hub import HfApi, snapshot_download

        # Asked once first: without a network, a download keeps trying for half a minute.
        HfApi().repo_info(repository.repo_id, revision=repository.revision,
                          repo_type=repository.repo_type, timeout=10)
        plan = snapshot_download(
            repository.repo_id, revision=repository.revision, repo_type=repository.repo_type,
            allow_patterns=list(repository.patterns), cache_dir=folder, dry_run=True)
    except Exception as error:
        raise _Failed(f"{where}: cannot be fetched ({type(error).__name__}: {error})") from error
    left = [file.file_size or 0 for file in plan if file.will_download]
    print(f"{where}: {sum(left) / 1e6:.0f} MB in {len(left)} files, "
          f"{len(plan) - len(left)} files are there", flush=True)
    return sum(left)


def _download(repository: HubRepository, folder: Path | None) -> None:
    """Fetch a repository; the hub shows the progress of each file, and resumes it."""
    from huggingface_hub import snapshot_download
    where = f"{repository.repo_type} {repository.repo_id}"
    try:
        found = Path(snapshot_download(
            repository.repo_id, revision=repository.revision, repo_type=repository.repo_type,
            allow_patterns=list(repository.patterns), cache_dir=folder))
    except Exception as error:
        raise _Failed(f"{where}: cannot be fetched ({type(error).__name__}: {error}); run the "
                      "same command again, and it goes on where it stopped") from error
    if not is_whole(repository, found) or damaged(found):
        raise _Failed(f"{where}: not all of its files have arrived; run the same command again")


def free_bytes(folder: Path) -> int:
    """Free space where a folder is, or will be."""
    import shutil
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free
