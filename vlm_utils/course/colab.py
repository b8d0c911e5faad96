"""The way into a lesson from Google's Colab: a link in its first cell, and a cell that installs.

Both hold the address of the repository, and both are written by `python -m vlm_utils sync`, so that
the address stands in pyproject.toml only.
"""

from __future__ import annotations

import re

import nbformat

from vlm_utils.course.address import colab_link

TAG = "colab"
FOLDER = "/content/course"      # Colab's own folder, where its file browser starts
_LINK = re.compile(r"\n*\[Open this lesson in Colab\]\([^)]*\)\.$")
_CELL = """\
# Installs the course in Google's Colab; does nothing anywhere else.
import os
import subprocess
import sys

if "google.colab" in sys.modules:
    address = "{address}"
    folder = "{folder}"
    if not os.path.isdir(folder):
        subprocess.run(["git", "clone", "--quiet", "--depth", "1", address,
                        folder], check=True)
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet",
                    folder], check=True)
    os.chdir(folder + "/notebooks")"""


def colab_cell(address: str, folder: str = FOLDER) -> str:
    """The source of the cell: clone into a folder, install, and go where the lessons look from."""
    return _CELL.format(address=address, folder=folder)


def put_colab(notebook, stem: str, address: str) -> None:
    """Write link and cell into a lesson, or bring them up to date; without an address, remove them.

    The cell follows the lesson's first one, so that it is the first that runs.
    """
    first = notebook.cells[0]
    first.source = _LINK.sub("", first.source)
    cells = [cell for cell in notebook.cells if TAG not in cell.metadata.get("tags", [])]
    if address:
        first.source += f"\n\n[Open this lesson in Colab]({colab_link(stem, address)})."
        old = [cell for cell in notebook.cells if TAG in cell.metadata.get("tags", [])]
        cell = old[0] if old else nbformat.v4.new_code_cell(metadata={"tags": [TAG]}, id=TAG)
        cell.source = colab_cell(address)
        cells.insert(1, cell)
    notebook.cells = cells
