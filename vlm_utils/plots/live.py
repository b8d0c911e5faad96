"""What long work shows while it runs, and what of it stays when the notebook is saved."""

from __future__ import annotations

import io
from collections.abc import Sequence

import pandas as pd
from IPython import get_ipython
from IPython.display import display
from tqdm import tqdm

from vlm_utils.plots.figures import draw_loss
from vlm_utils.plots.picture import as_picture

# In an output's metadata: its text differs from run to run, and is not compared.
PROGRESS = {"progress": True}


class LiveLoss:
    """A plot of the loss that redraws itself while training goes on: `train(on_step=LiveLoss(n))`.

    Drawn at most every `seconds` seconds, and once more at the end. earlier: the history of a run
    that is resumed, which the plot goes on from.
    """

    def __init__(self, total: int, seconds: float = 20, earlier: Sequence[dict] = ()):
        self.total, self.seconds, self.rows = total, seconds, list(earlier)
        self.handle, self.last = None, -1e9

    def __call__(self, row: dict) -> None:
        self.rows.append(row)
        if row["seconds"] - self.last >= self.seconds or row["step"] == self.total:
            self.last = row["seconds"]
            picture = as_picture(
                draw_loss(pd.DataFrame(self.rows), self.total),
                f"The training loss by step, and the learning rate. At step {row['step']:,} of "
                f"{self.total:,} the loss is {row['loss']:.3g}.")
            if self.handle is None:
                self.handle = display(picture, display_id=True)
            else:
                self.handle.update(picture)


def progress(total: int, what: str, unit: str, initial: int = 0, silent: bool = False) -> tqdm:
    """A tqdm that shows how far long work has come: `with progress(90, "encoding", "images") as p`.

    In a notebook it is one line of text, which stays in the saved file; a bar of tqdm.auto is a
    widget, and in a file that is opened again only an error stands in its place. In a terminal it
    is tqdm's bar. silent: show nothing.
    """
    kind = _Line if hasattr(get_ipython(), "kernel") else tqdm
    # Said only if it is to be silent: a False would overrule TQDM_DISABLE.
    return kind(total=total, desc=what, unit=unit, initial=initial, mininterval=1, miniters=1,
                leave=kind is _Line, **({"disable": True} if silent else {}))


class _Line(tqdm):
    """A tqdm that writes its state into one output of a notebook, over the one before."""

    def __init__(self, **settings):
        self.handle = None
        super().__init__(**settings, file=io.StringIO(), bar_format="{desc}: {n:,} of {total:,} "
                         "{unit}, {elapsed_s:.0f} s")

    def display(self, msg=None, pos=None) -> None:
        output = {"text/plain": str(self)}
        if self.handle is None:
            self.handle = display(output, raw=True, metadata=PROGRESS, display_id=True)
        else:
            self.handle.update(output, raw=True, metadata=PROGRESS)
