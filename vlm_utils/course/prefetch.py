"""`python -m vlm_utils prefetch`: download what a profile needs, with its size said first."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path

import huggingface_hub

from vlm_utils.profiles import HubRepository, Profile
from vlm_utils.sources.hub import (
    COMMIT,
    cache_folder,
    commit_record,
    damaged,
    free_bytes,
    in_cache,
    is_whole,
    pinned,
    repositories,
    settle,
    why_not,
)

_GOES_ON = "run the same command again: files that have arrived are kept"


def prefetch(profile: Profile, folder: Path | None = None) -> int:
    """Download what a profile needs; 0 if all of it is there in the end, else 1.

    folder: where to, in the layout of the hub's cache; by default the hub's own cache.
    Says first what is missing and how large it is. Interrupted, it goes on with the file at which
    it stopped when it is run again, and at the same commit, whatever the hub has got since. Files
    that are there and damaged are removed and fetched again; no file outside the folder is ever
    removed.
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
        print(f"interrupted: {_GOES_ON}")
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
        record = commit_record(repository, folder)      # a cache that is older than such records
        if not COMMIT.fullmatch(repository.revision) and os.access(record.parent, os.W_OK):
            settle(repository, cached.name, folder)
        return None
    for name in broken:
        print(f"{where}: {name} is damaged")
    try:
        # Asked once first: without a network, a download keeps trying for half a minute.
        info = huggingface_hub.HfApi().repo_info(
            repository.repo_id, revision=repository.revision, repo_type=repository.repo_type,
            timeout=10)
        at = _at_commit(repository, info.sha, folder)
        plan = huggingface_hub.snapshot_download(
            at.repo_id, revision=at.revision, repo_type=at.repo_type,
            allow_patterns=list(at.patterns), cache_dir=folder, dry_run=True)
    except Exception as error:
        raise _Failed(f"{where} cannot be fetched: {why_not(error, repository)}"
                      f"{_other_commit(repository, error, folder)}") from error
    left = [file.file_size or 0 for file in plan if file.will_download or file.filename in broken]
    named = "" if COMMIT.fullmatch(repository.revision) else f" at commit {at.revision}"
    print(f"{where}{named}: {sum(left) / 1e6:.0f} MB in {len(left)} files, "
          f"{len(plan) - len(left)} files are there", flush=True)
    return sum(left)


def _at_commit(repository: HubRepository, newest: str, folder: Path | None) -> HubRepository:
    """The repository at the commit that this cache keeps to. Says so if a branch has moved on."""
    if COMMIT.fullmatch(repository.revision):
        return repository
    at, where = settle(repository, newest, folder), f"{repository.repo_type} {repository.repo_id}"
    if at.revision != newest:
        print(f"{where}: {repository.revision} has moved on to {newest}; the course stays with the "
              f"commit that was fetched first. To take the new one, remove "
              f"{commit_record(repository, folder)} and run the same command again")
    return at


def _other_commit(repository: HubRepository, error: Exception, folder: Path | None) -> str:
    """What to do if the commit that was fetched first is no longer on the hub."""
    gone = isinstance(error, huggingface_hub.errors.RevisionNotFoundError)
    if not gone or pinned(repository, folder) == repository:
        return ""
    return (f"; the commit {pinned(repository, folder).revision}, which was fetched first, is gone "
            f"from it: to take another, remove {commit_record(repository, folder)}")


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
        _remove(file, cache)


def _download(repository: HubRepository, folder: Path | None) -> None:
    """Fetch a repository at its commit; the hub shows the progress of each file.

    A connection that breaks is taken up again a few times, where it broke.
    """
    where, at = f"{repository.repo_type} {repository.repo_id}", pinned(repository, folder)
    try:
        found = Path(huggingface_hub.snapshot_download(
            at.repo_id, revision=at.revision, repo_type=at.repo_type,
            allow_patterns=list(at.patterns), cache_dir=folder))
    except Exception as error:
        raise _Failed(f"{where} cannot be fetched: {why_not(error, at)}; files that have arrived "
                      "are kept") from error
    for name in _other_content(found):
        _remove(found / name, cache_folder(folder))
        raise _Failed(f"{where}: {name} arrived with other content than the hub had announced, and "
                      f"was removed: {_GOES_ON}")
    if not is_whole(repository, found) or damaged(found):
        raise _Failed(f"{where}: not all of its files have arrived: {_GOES_ON}")


def _other_content(folder: Path) -> list[str]:
    """Files whose content is not what the hub said. Large ones are stored under their SHA-256; of
    the others, and where a system has no links, nothing is known."""
    found = []
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        if re.fullmatch("[0-9a-f]{64}", file.resolve().name):
            digest = hashlib.sha256()
            with file.open("rb") as content:
                while part := content.read(2**20):
                    digest.update(part)
            if digest.hexdigest() != file.resolve().name:
                found.append(str(file.relative_to(folder)))
    return found


def _remove(file: Path, cache: Path) -> None:
    """Remove a link of the cache, and what it points to if that lies in the cache."""
    target = file.resolve()
    file.unlink()
    if target.is_relative_to(cache):
        target.unlink(missing_ok=True)
