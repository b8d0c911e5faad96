"""`python -m vlm_utils prefetch`: download what a profile needs, with its size said first."""

from __future__ import annotations

from pathlib import Path

import huggingface_hub

from vlm_utils.profiles import HubRepository, Profile
from vlm_utils.sources.hub import (
    cache_folder,
    damaged,
    free_bytes,
    in_cache,
    is_whole,
    repositories,
)


def prefetch(profile: Profile, folder: Path | None = None) -> int:
    """Download what a profile needs; 0 if all of it is there in the end, else 1.

    folder: where to, in the layout of the hub's cache; by default the hub's own cache.
    Says first what is missing and how large it is. Interrupted, it goes on where it stopped when
    it is run again. Files that are there and damaged are removed and fetched again; no file outside
    the folder is ever removed.
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
            _remove_damaged(repository, folder)
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
    for name in broken:
        print(f"{where}: {name} is damaged")
    try:
        # Asked once first: without a network, a download keeps trying for half a minute.
        huggingface_hub.HfApi().repo_info(repository.repo_id, revision=repository.revision,
                                          repo_type=repository.repo_type, timeout=10)
        plan = huggingface_hub.snapshot_download(
            repository.repo_id, revision=repository.revision, repo_type=repository.repo_type,
            allow_patterns=list(repository.patterns), cache_dir=folder, dry_run=True)
    except Exception as error:
        raise _Failed(f"{where}: cannot be fetched ({type(error).__name__}: {error})") from error
    left = [file.file_size or 0 for file in plan if file.will_download or file.filename in broken]
    print(f"{where}: {sum(left) / 1e6:.0f} MB in {len(left)} files, "
          f"{len(plan) - len(left)} files are there", flush=True)
    return sum(left)


def _remove_damaged(repository: HubRepository, folder: Path | None) -> None:
    """Remove damaged files, which the hub takes for good ones as long as they are there.

    A link is removed with what it points to if that lies in the cache. What lies elsewhere is not
    ours: a link to it is removed alone, and a file reached through a linked folder is refused.
    """
    cached = in_cache(repository, folder)
    if cached is None:
        return
    cache = cache_folder(folder)
    for name in damaged(cached):
        file = cached / name
        if not file.parent.resolve().is_relative_to(cache):
            raise _Failed(f"{file} is damaged, and lies outside {cache} ({file.resolve()}): remove "
                          "it yourself and run the same command again")
        target = file.resolve()
        file.unlink()
        if target.is_relative_to(cache):
            target.unlink(missing_ok=True)


def _download(repository: HubRepository, folder: Path | None) -> None:
    """Fetch a repository; the hub shows the progress of each file, and resumes it."""
    where = f"{repository.repo_type} {repository.repo_id}"
    try:
        found = Path(huggingface_hub.snapshot_download(
            repository.repo_id, revision=repository.revision, repo_type=repository.repo_type,
            allow_patterns=list(repository.patterns), cache_dir=folder))
    except Exception as error:
        raise _Failed(f"{where}: cannot be fetched ({type(error).__name__}: {error}); run the "
                      "same command again, and it goes on where it stopped") from error
    if not is_whole(repository, found) or damaged(found):
        raise _Failed(f"{where}: not all of its files have arrived; run the same command again")
