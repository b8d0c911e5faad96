"""How lessons are checked: with or without a network, their outputs compared or not."""

from __future__ import annotations

import os
import shutil
import subprocess
from functools import cache

from vlm_utils import profiles


@cache
def isolation() -> tuple[str, ...]:
    """The command in front of a kernel's that takes its network away; empty where none may.

    A new network namespace has no interface but a loopback that is down. Linux gives one to the
    superuser, and on most systems to everybody who makes a user namespace with it.
    """
    if shutil.which("unshare") is None:
        return ()
    for options in (("--net",), ("--user", "--map-current-user", "--net"),
                    ("--user", "--map-root-user", "--net")):
        tried = subprocess.run(["unshare", *options, "true"], capture_output=True, check=False)
        if tried.returncode == 0:
            return ("unshare", *options)
    return ()


def stored_outputs_are_meant() -> bool:
    """Outputs are stored for the tiny profile with all of TinyEarth's images, and nothing else."""
    return not _other_than_stored()


def why_not_store() -> str:
    """Why the outputs of a run that starts now may not be stored for everybody, or ""."""
    other = _other_than_stored()
    return (f"--write stores what everybody will see: the tiny profile with all of TinyEarth. "
            f"Unset {', '.join(other)} first, or run without --write" if other else "")


def _other_than_stored() -> list[str]:
    profile, found = profiles.get_profile(), []
    if profile.name != "tiny":
        found.append(f"VLM_PROFILE={profile.name}")
    if profile.subset is not None:
        found.append(f"VLM_SUBSET={profile.subset}")
    if os.environ.get("VLM_IMAGES"):
        found.append(f"VLM_IMAGES={os.environ['VLM_IMAGES']}")
    return found


def check_note(network: bool) -> str:
    """Whether the lessons of a check had a network, and whether outputs were compared.

    network: they were meant to have one.
    """
    if network:
        text = "The network was not cut off, as was asked."
    elif isolation():
        text = "The network was cut off."
    else:
        text = "The network was not cut off: this system does not allow it."
    if stored_outputs_are_meant():
        return text
    profile = profiles.get_profile()
    part = f" on {profile.subset} images of each split" if profile.subset else ""
    return (f"{text} Stored outputs, which are the tiny profile's, were not compared "
            f"(profile {profile.name}{part}).")
