"""The address of the repository: in pyproject.toml and nowhere else, and what follows from it."""

from __future__ import annotations

import os
import re

from vlm_utils.profiles import REPOSITORY


def repository_address() -> str:
    """The repository's page on the web, without a slash at its end; "" if it is not known.

    GitHub's own runners say where they run, so that a fork's site leads to the fork; anywhere else
    it is `stored_address`.
    """
    if name := os.environ.get("GITHUB_REPOSITORY"):
        return f"{os.environ.get('GITHUB_SERVER_URL', 'https://github.com')}/{name}"
    return stored_address()


def stored_address() -> str:
    """What pyproject.toml says, as Repository under [project.urls]; "" if it says nothing."""
    text = (REPOSITORY / "pyproject.toml").read_text(encoding="utf-8")
    found = re.search(r'^Repository = "([^"]+)"$', text, re.M)
    return found[1].rstrip("/") if found else ""


def colab_link(stem: str, address: str) -> str:
    """Where Google's Colab opens a lesson. Raises ValueError unless the address is on GitHub."""
    return f"https://colab.research.google.com/github/{_on_github(address)}/blob/main/" \
           f"notebooks/{stem}.ipynb"


def binder_link(stem: str, address: str) -> str:
    """Where Binder opens a lesson in JupyterLab. Raises ValueError as colab_link."""
    return f"https://mybinder.org/v2/gh/{_on_github(address)}/main?urlpath=lab/tree/" \
           f"notebooks/{stem}.ipynb"


def _on_github(address: str) -> str:
    match = re.fullmatch(r"https://github\.com/([\w.-]+/[\w.-]+)", address)
    if not match:
        raise ValueError(f"{address!r} is not the address of a repository on GitHub: Colab and "
                         "Binder open only those this way")
    return match[1]
