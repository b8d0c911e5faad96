"""A figure as a PNG with alternative text, in colours that every reader can tell apart."""

from __future__ import annotations

import base64
import io
import textwrap
from html import escape

from IPython.display import display
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from PIL import Image

# Okabe and Ito (2008): distinct for every kind of colour vision.
BLUE, ORANGE, GREEN, PURPLE = "#0072B2", "#E69F00", "#009E73", "#CC79A7"
SKY, VERMILLION, OLIVE, BLACK = "#56B4E9", "#D55E00", "#B8A900", "#000000"
IMAGE_COLOURS = [BLUE, ORANGE, GREEN, PURPLE, SKY, VERMILLION, OLIVE, BLACK]
GREY, PALE, CREAM = "#595959", "#EEEEEE", "#FFE9A8"
LEAST_CONTRAST = 4.5            # of text and what is under it (WCAG 2.2, level AA)


class Picture:
    """A PNG that says in words what it shows, in every program that opens the notebook.

    png: the file's bytes. JupyterLab shows PNG outputs without their alternative text, so the
    picture stands in the output a second time, as an <img>, which JupyterLab prefers and keeps
    in a notebook that is not trusted. The PNG itself is for PDF and for viewers without HTML.
    """

    def __init__(self, png: bytes, alt: str):
        self.png, self.alt = png, alt

    def __repr__(self) -> str:
        return f"<picture: {self.alt}>"

    @property
    def html(self) -> str:
        """The picture as an <img> that needs no file beside it."""
        return f'<img alt="{escape(self.alt)}" src="data:image/png;base64,{self._base64}">'

    @property
    def _base64(self) -> str:
        return base64.b64encode(self.png).decode("ascii")

    def _repr_mimebundle_(self, include=None, exclude=None):
        """What IPython's display() reads: the kinds of output, and what is said about each."""
        return ({"image/png": self._base64, "text/html": self.html, "text/plain": self.alt},
                {"image/png": {"alt": self.alt}})


def show(figure: Figure, alt: str, dpi: int = 90) -> None:
    """Display a figure with its alternative text, and nothing else.

    Raises ValueError if alt is empty.
    """
    display(as_picture(figure, alt, dpi))


def as_picture(figure: Figure, alt: str, dpi: int = 90) -> Picture:
    """A figure as PNG with its alternative text. Raises ValueError if alt is empty."""
    if not alt.strip():
        raise ValueError("the figure has no alternative text: say in alt what it shows")
    return Picture(to_png(figure, dpi), alt)


def to_png(figure: Figure, dpi: int = 90) -> bytes:
    """A figure as a PNG of at most 256 colours: less than half as large, and looks the same."""
    drawn, reduced = io.BytesIO(), io.BytesIO()
    figure.savefig(drawn, format="png", dpi=dpi, bbox_inches="tight")
    picture = Image.open(drawn).convert("RGB").quantize(256, kmeans=1)
    picture.save(reduced, format="png", optimize=True)
    return reduced.getvalue()


def new_figure(width: float = 7, height: float = 3) -> Figure:
    """An empty figure, in inches."""
    return Figure(figsize=(width, height), layout="constrained")


def contrast(one: str, other: str) -> float:
    """Contrast of two colours after WCAG 2: from 1 (the same) to 21 (black and white)."""
    low, high = sorted((_luminance(one), _luminance(other)))
    return (high + 0.05) / (low + 0.05)


def ink_on(colour: str) -> str:
    """Black or white, whichever is easier to read on a colour."""
    return max(("black", "white"), key=lambda ink: contrast(ink, colour))


def _luminance(colour: str) -> float:
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(colour)]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def wrap(text: str, width: int, indent: str = "") -> str:
    """Lines of at most `width` letters; line breaks in the text stay.

    indent: what a line starts with that only goes on from the one before.
    """
    return "\n".join(textwrap.fill(line, max(width, 8), subsequent_indent=indent)
                     for line in text.split("\n"))
