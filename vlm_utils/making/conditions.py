"""What is made for everybody is made of the whole embedded world, whatever one user has set."""

from __future__ import annotations

import os

# What changes the images that a table holds, or the model and the numbers of a profile.
OF_THE_USER = ("VLM_PROFILE", "VLM_SUBSET", "VLM_IMAGES")


def only_embedded() -> list[str]:
    """From here on the tiny profile on all of TinyEarth; says which settings it leaves aside.

    Call it first in whatever makes an embedded model or a number that others compare theirs with:
    a model of 64 images, or of one user's pictures, would otherwise replace the one in data/.
    Returns the names of the settings that were there.
    """
    ignored = {name: os.environ.pop(name) for name in OF_THE_USER if name in os.environ}
    counts = [f"{name}={value}" for name, value in ignored.items()
              if value.strip() and (name, value) != ("VLM_PROFILE", "tiny")]
    if counts:
        print(f"not used here: {', '.join(counts)} (this is always made with the tiny profile, of "
              "all of TinyEarth)", flush=True)
    return list(ignored)
