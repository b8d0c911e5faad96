"""Figures: every text can be read, and the alternative text is there wherever it is opened."""

import base64
import io
import itertools
import re
from functools import cache
from html.parser import HTMLParser
from unittest import mock

import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.text import Text
from matplotlib.transforms import Bbox
from PIL import Image

from vlm_utils import plots, tiny_earth
from vlm_utils.course.cells import WIDGET
from vlm_utils.datasets import Sample
from vlm_utils.plots.picture import IMAGE_COLOURS, LEAST_CONTRAST, contrast, ink_on
from vlm_utils.profiles import quiet_libraries

DPI = 90


@cache
def tiles(count: int) -> list[Image.Image]:
    """Different TinyEarth tiles, with all their colours."""
    rng = np.random.default_rng(3)
    return [Image.fromarray(tiny_earth.render(tiny_earth.sample_scene(rng), i, i))
            for i in range(count)]


def samples() -> list[Sample]:
    """One sample of each task, among them the longest question and the most images."""
    few = tiles(8)
    return [
        Sample(few[:1], "<image>Describe the image.", "A satellite image of a mountain range with "
               "a town in the top left, a lake in the top right and a fire in the bottom left.",
               "describe"),
        Sample(few[:2], "<image><image>What changed?", "The clearing in the top right grew.",
               "compare"),
        Sample(few[:3], "<image>" * 3 + "Which image shows: a satellite image of a mountain range "
               "with a lake in the bottom left and a quarry in the bottom right?", "<image_3>",
               "select"),
        Sample(few, "<image>" * 8 + "What happens over time?",
               "The ship moves from the bottom left to the bottom right.", "sequence")]


def summary(accuracy: float) -> pd.DataFrame:
    rows = [("compare", 2), ("refer", 1), ("refer", 2), ("refer", 3), ("select", 2), ("select", 3),
            ("sequence", 2), ("sequence", 3), ("sequence", 4)]
    return pd.DataFrame([
        {"task": task, "num_images": n, "accuracy": accuracy, "low": max(accuracy - 0.08, 0),
         "high": min(accuracy + 0.08, 1), "chance": 1 / n if task == "select" else np.nan,
         "prior": 0.3} for task, n in rows])


def history(steps: int) -> pd.DataFrame:
    step = np.arange(1, steps + 1)
    noise = np.random.default_rng(0).lognormal(0, 0.5, steps)
    return pd.DataFrame({"step": step, "loss": 8 / step * noise, "learning_rate": 2.5e-3 / step,
                         "seconds": step * 0.11})


LADDER = pd.DataFrame({
    "rung": ["naive", "features once", "fewer tokens", "dynamic padding", "answer logits only",
             "bfloat16"],
    "change": ["images again in each step, all patches, fixed length, all logits",
               "images encoded before training", "4 tokens an image, not 16",
               "padded to the longest of the batch", "logits where the loss reads them",
               "matrix products in half precision"],
    "samples_per_second": [2.5, 119.0, 166.0, 463.0, 1462.0, 299.0],
    "times_naive": [1.0, 1.3, 1.9, 5.2, 15.2, 3.4],
    "seconds_once": [0.0, 0.028, 0.0, 0.0, 0.0, 0.0]})
PROMPT = (["B", "ef", "o", "re", ":", "Ġ"] + ["<image>"] * 4 + ["<image_1>", "Ġ", "A", "f", "t"]
          + ["er", ":", "Ġ"] + ["<image>"] * 4 + ["<image_2>", "Ġ", "ĠWhat", "Ġchanged", "?", "Ċ"])
FIGURES = {
    "images": lambda: plots.draw_images([tiles(3)], size=2.2),
    "captions": lambda: plots.draw_images([tiles(4)], size=2.1, captions=[[
        "A satellite image of a mountain range with a town in the top left, a lake in the top "
        "right and a fire in the bottom left.", "A satellite image of open water with an island "
        "in the top right.", "A desert.", "A satellite image of a snow field."]]),
    "samples": lambda: plots.draw_samples(samples(), [s.answer for s in samples()], size=1.5),
    "a long sequence": lambda: plots.draw_samples(
        [Sample(tiles(16), "<image>" * 16 + "What happens over time?", None, "sequence")]),
    "one sample": lambda: plots.draw_samples(samples()[:1], size=1.6),
    "layout": lambda: plots.draw_layout(PROMPT),
    "layout of eight": lambda: plots.draw_layout(
        [t for k in range(1, 9) for t in ["<image>"] * 4 + [f"<image_{k}>"]] + PROMPT[-5:]),
    "loss": lambda: plots.draw_loss(history(3000), 3000),
    "loss at first": lambda: plots.draw_loss(history(1), 30_000),
    "accuracy": lambda: plots.draw_accuracy(
        {"with its images": summary(0.97), "blind": summary(0.4), "shuffled": summary(0.0),
         "permuted": summary(0.9)}, "what the images are worth"),
    "accuracy in numbers": lambda: plots.draw_accuracy(
        {"with its images": summary(1.0)[:3], "blind": summary(0.4)[:3],
         "shuffled": summary(0.0)[:3]}, in_numbers=True),
    "attention": lambda: plots.draw_attention(
        tiles(8), np.random.default_rng(0).dirichlet(np.ones(32)).reshape(8, 2, 2),
        "Which image shows: a solar farm in the bottom left? Truth: <image_3> Model: <image_3>"),
    "attention to sixteen": lambda: plots.draw_attention(
        tiles(16), np.random.default_rng(0).dirichlet(np.ones(64)).reshape(16, 2, 2)),
    "attention to one": lambda: plots.draw_attention(
        tiles(1), np.full((1, 4, 4), 1 / 16), samples()[2].prompt.replace("<image>", "")),
    "bars": lambda: plots.draw_bars(
        {f"{n} black images": 0.156 + n for n in range(5)}, "loss of one true caption",
        "the same sample, padded with more and more black images"),
    "ladder": lambda: plots.draw_ladder(LADDER),
    "mask": lambda: plots.draw_mask(
        np.tile(np.repeat([1, 2, 3, 0], [8, 12, 6, 5]), (5, 1)), "a batch of five samples",
        {0: "padding", 1: "image", 2: "prompt text", 3: "answer"}),
    "timeline": lambda: plots.draw_timeline(
        {"everything loaded": 12.3, "without optimizer": 7.4, "after an error": 212.0,
         "without model": 1.2, "without data": 0.0}, "tensors alive, MB"),
    "architecture": lambda: plots.draw_architecture(
        *tiles(2), "What changed?", "The town in the bottom right appeared."),
}


# --- texts that can be read --------------------------------------------------------------------

def texts_of(figure: Figure) -> list[tuple[str, Text, Bbox]]:
    """Every text that is drawn: its words, the artist, its place in pixels from the bottom left.

    matplotlib also holds texts that it never draws, as labels of ticks outside an axis.
    """
    drawn, draw = [], Text.draw

    def record(text, renderer, *arguments, **settings):
        drawn.append(text)
        draw(text, renderer, *arguments, **settings)

    figure.set_dpi(DPI)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()                               # the layout moves what it has measured
    with mock.patch.object(Text, "draw", record):
        canvas.draw()
    return [(text.get_text(), text, text.get_window_extent()) for text in drawn
            if text.get_text().strip() and text.get_visible()]


def worst_contrasts(figure: Figure) -> dict[str, float]:
    """For each text, its contrast with the worst of the colours that are really under it.

    The figure is drawn without its texts; a colour counts if it covers 2% of the text's box.
    """
    texts = texts_of(figure)
    for _, text, _ in texts:
        text.set_alpha(0)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    pixels = np.asarray(canvas.buffer_rgba())[::-1, :, :3]          # (height, width, 3)
    worst = {}
    for words, text, box in texts:
        left, bottom, right, top = (round(edge) for edge in box.extents)
        under = pixels[max(bottom, 0):top, max(left, 0):right].reshape(-1, 3)
        colours, counts = np.unique(under, axis=0, return_counts=True)
        assert len(under), f"{words!r} stands outside the figure"
        worst[words] = min(contrast(text.get_color(), tuple(colour / 255))
                           for colour, count in zip(colours, counts, strict=True)
                           if count >= 0.02 * len(under))
    return worst


def overlaps(figure: Figure) -> list[tuple[str, str]]:
    """Pairs of texts that share more than a pixel's width and height."""
    found = []
    for (one, _, a), (other, _, b) in itertools.combinations(texts_of(figure), 2):
        shared = Bbox.intersection(a, b)
        if shared is not None and shared.width > 1 and shared.height > 1:
            found.append((one, other))
    return found


@pytest.mark.parametrize("name", FIGURES)
def test_every_text_has_enough_contrast(name):
    found = worst_contrasts(FIGURES[name]())
    assert found and {words: ratio for words, ratio in found.items()
                      if ratio < LEAST_CONTRAST} == {}


@pytest.mark.parametrize("name", FIGURES)
def test_no_text_overlaps_another(name):
    assert overlaps(FIGURES[name]()) == []


@pytest.mark.parametrize("name", ["layout", "layout of eight", "architecture"])
def test_a_word_in_a_box_stays_in_it(name):
    """Where boxes are side by side, a word that leaves its own runs into the next."""
    figure = FIGURES[name]()
    texts = texts_of(figure)
    boxes = [patch.get_window_extent() for patch in figure.axes[0].patches
             if isinstance(patch, Rectangle)]
    middles = [(box.x0 + box.x1) / 2 for _, _, box in texts]
    inside = 0
    for (words, _, text), middle in zip(texts, middles, strict=True):
        for box in boxes:
            if box.contains(middle, (text.y0 + text.y1) / 2):
                assert box.x0 <= text.x0 and text.x1 <= box.x1, words
                inside += 1
    assert inside > 4


def test_bad_figures_are_found():
    """White on orange as lesson 01 once had it, grey on white, one text over another."""
    figure = plots.new_figure(4, 2)
    axis = figure.subplots()
    axis.axis("off")
    axis.add_patch(Rectangle((0, 0), 0.6, 1, color="#E69F00"))
    axis.text(0.1, 0.5, "on orange", color="white")
    axis.text(0.11, 0.52, "over it", color="black")
    axis.text(0.7, 0.2, "faint", color="#999999")
    found = worst_contrasts(figure)
    assert found["on orange"] == pytest.approx(2.25, abs=0.01)
    assert found["faint"] == pytest.approx(2.85, abs=0.01)
    assert found["over it"] > LEAST_CONTRAST
    assert overlaps(figure) == [("on orange", "over it")]


def test_contrast_is_that_of_wcag():
    assert contrast("black", "white") == contrast("white", "black") == pytest.approx(21)
    assert contrast("#777777", "white") == pytest.approx(4.48, abs=0.01)
    assert contrast("#0072B2", "#0072B2") == 1
    assert all(contrast(ink_on(colour), colour) >= LEAST_CONTRAST for colour in IMAGE_COLOURS)
    assert len(set(IMAGE_COLOURS)) == 8


def test_every_figure_has_a_size_that_a_notebook_holds():
    """As a PNG under 100 kB, and no wider than a notebook's column, which would shrink it."""
    for name, make in FIGURES.items():
        png = plots.to_png(make())
        assert len(png) < 100_000, name
        assert Image.open(io.BytesIO(png)).width <= 1010, name


def test_fewer_colours_look_the_same():
    """Flat colours stay what they are; those of photographs move by a few steps of 255."""
    figure = FIGURES["samples"]()
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png", dpi=DPI, bbox_inches="tight")
    before = np.asarray(Image.open(drawn).convert("RGB")).astype(int)
    after = np.asarray(Image.open(io.BytesIO(plots.to_png(figure))).convert("RGB")).astype(int)
    assert before.shape == after.shape
    assert np.abs(before - after).mean() < 2
    assert (after[before.min(axis=2) == 255] == 255).all()
    assert len(plots.to_png(figure)) < 0.6 * len(drawn.getvalue())


# --- what a figure shows -----------------------------------------------------------------------

def test_images_keep_their_size_however_much_text_there_is():
    figure = FIGURES["samples"]()
    sizes = {tuple(np.round(axis.get_position().size * figure.get_size_inches(), 3))
             for axis in figure.axes}
    assert len(figure.axes) == 1 + 2 + 3 + 8 and len(sizes) == 1


def test_a_long_row_goes_on_below_and_every_image_has_its_number():
    figure = FIGURES["a long sequence"]()
    labels = [axis.get_xlabel() for axis in figure.axes]
    assert labels == [f"image {k}" for k in range(1, 17)]
    heights = [axis.get_position().y0 for axis in figure.axes]
    assert len(set(heights[:8])) == len(set(heights[8:])) == 1 and heights[0] > heights[8]


def test_rows_without_images_or_with_one_too_many_captions():
    assert len(plots.draw_images([[], tiles(1)], ["a text alone", "one image"]).axes) == 1
    with pytest.raises(ValueError):
        plots.draw_images([tiles(1)], captions=[["one", "two"]])


def test_the_layout_colours_each_image_and_names_it():
    axis = FIGURES["layout of eight"]().axes[0]
    words = [text.get_text() for text in axis.texts]
    assert words[:6] == ["img1"] * 4 + ["<image_1>", "img2"]
    assert words[-5:] == ["␣", "What", "changed", "?", "\\n"]
    colours = [patch.get_facecolor() for patch, word in zip(axis.patches, words, strict=True)
               if word.startswith("img")]
    assert len(set(colours)) == 8


def test_tables_of_other_tasks_are_not_drawn_under_one_axis():
    fewer = summary(0.5).iloc[1:].reset_index(drop=True)
    with pytest.raises(ValueError, match="'blind' has other tasks than 'all'"):
        plots.draw_accuracy({"all": summary(0.9), "blind": fewer})
    axis = plots.draw_accuracy({"all": summary(0.9), "blind": summary(0.5)}).axes[0]
    assert [bars.get_label() for bars in axis.containers if len(bars) == 9] == ["all", "blind"]


def test_a_bar_of_nothing_says_its_number():
    axis = FIGURES["accuracy in numbers"]().axes[0]
    words = [text.get_text() for text in axis.texts]
    assert words == ["100%"] * 3 + ["40%"] * 3 + ["0%"] * 3
    assert all(text.xy[1] < axis.get_ylim()[1] for text in axis.texts)


def test_a_mask_names_each_of_its_values():
    mask = np.array([[0, 1, 2]])
    with pytest.raises(ValueError, match=r"\[2\] have no name"):
        plots.draw_mask(mask, "tokens", {0: "none", 1: "image"})
    figure = plots.draw_mask(mask, "tokens", {0: "none", 1: "image", 2: "text"})
    image, legend = figure.axes[0].images[0], figure.legends[0]
    assert [text.get_text() for text in legend.get_texts()] == ["none", "image", "text"]
    for value, patch in enumerate(legend.get_patches()):
        assert image.to_rgba(value) == pytest.approx(patch.get_facecolor())


# --- alternative text --------------------------------------------------------------------------

class Images(HTMLParser):
    """The attributes of each <img> of a page."""

    def __init__(self, page: str):
        super().__init__()
        self.found: list[dict] = []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        if tag == "img":
            self.found.append(dict(attrs))


NASTY = "Truth: <image_1> & \"it's\" <script>alert('x')</script>"


def test_a_figure_is_one_output_with_its_text_in_every_form():
    picture = plots.as_picture(FIGURES["bars"](), NASTY)
    data, metadata = picture._repr_mimebundle_()
    assert set(data) == {"image/png", "text/html", "text/plain"}
    image, = Images(data["text/html"]).found
    assert image["alt"] == metadata["image/png"]["alt"] == data["text/plain"] == NASTY
    assert image["src"] == "data:image/png;base64," + data["image/png"]
    assert Image.open(io.BytesIO(base64.b64decode(data["image/png"]))).format == "PNG"
    assert "<script" not in data["text/html"] and set(image) == {"alt", "src"}


@pytest.mark.parametrize("alt", ["", " \n"])
def test_a_figure_without_alternative_text_is_refused(alt):
    with pytest.raises(ValueError, match="no alternative text"):
        plots.show(FIGURES["bars"](), alt)


# --- progress ----------------------------------------------------------------------------------

def test_in_a_terminal_progress_is_a_bar_and_can_be_silent(capsys):
    with plots.progress(3, "encoding", "images") as line:
        line.update(2)
        line.refresh()
    assert re.search(r"encoding:  67%\|.*2/3", capsys.readouterr().err)
    with plots.progress(3, "encoding", "images", silent=True) as line:
        line.update(3)
    assert capsys.readouterr() == ("", "")


WORK = """
from pathlib import Path
from tempfile import mkdtemp
from vlm_utils.datasets import build_tasks, load_image_table
from vlm_utils.loading import load_base_model, load_checkpoint
from vlm_utils.plots import LiveLoss
from vlm_utils.profiles import TrainingSettings, data_folder, get_profile
from vlm_utils.training import encode_table, start_run, train
folder, profile = Path(mkdtemp()), get_profile()
model, processor = load_base_model(profile)
table = load_image_table(profile, "test")
few = load_image_table(profile, "validation")
few.dataset = few.dataset.select(range(40))
few.image_features = encode_table(few, model, processor, folder=folder / "features")
encode_table(few, model, processor, folder=folder / "features")     # known by now: nothing to show
samples = build_tasks(table, {"select 2": 8}, seed=0)
settings = TrainingSettings(steps=2, batch_size=4, warmup_steps=1, checkpoint_every=1)
train(start_run(model, processor, samples, settings), folder / "model", on_step=LiveLoss(2))
model, processor = load_checkpoint(folder / "model")"""
DIRECT = """
from vlm_utils.architecture import MultiImageVLM
copy = MultiImageVLM.from_pretrained(data_folder() / profile.base_model)
copy.save_pretrained(folder / "copy")"""


def test_long_work_in_a_notebook_leaves_text_and_a_picture_and_no_widget(kernel):
    """Widgets of bars are "model not found" once the notebook is opened again."""
    outputs = kernel(WORK)
    assert [out for out in outputs if out.output_type != "display_data"] == []
    assert [sorted(out.data) for out in outputs] == [
        ["text/plain"], ["text/plain"], ["image/png", "text/html", "text/plain"]]
    assert [bool(out.metadata.get("progress")) for out in outputs] == [True, True, False]
    assert re.match(r"encoding TinyEarth validation: 0 of 40 images, \d+ s", text_of(outputs[0]))
    assert re.match(r"training: 0 of 2 steps, \d+ s", text_of(outputs[1]))


def text_of(output) -> str:
    return output.data["text/plain"]


def test_the_line_of_progress_is_written_over_and_ends_with_all(kernel):
    """What is stored is what was displayed last; each update goes to the same output."""
    kernel("""shown = []
class Handle:
    def update(self, output, **settings): shown.append(output["text/plain"])
from vlm_utils.plots import live, progress
before, live.display = live.display, lambda output, **settings: Handle().update(output) or Handle()
with progress(46_500, "encoding", "images") as line:
    line.update(46_500)
live.display = before""")
    first, *_, last = eval(text_of(kernel("shown")[-1]))
    assert first.startswith("encoding: 0 of 46,500 images, ")
    assert re.fullmatch(r"encoding: 46,500 of 46,500 images, \d+ s", last)


def test_a_lesson_has_no_bars_of_libraries_once_it_is_announced(kernel):
    """Also where a cell calls transformers itself; without the announcement there are some."""
    kernel(WORK.split("model, processor")[0])
    bars = [out for out in kernel(DIRECT) if WIDGET in out.get("data", {})]
    assert any("Loading weights" in text_of(out) for out in bars)
    kernel("from vlm_utils.profiles import announce\nannounce(profile)")
    assert kernel(DIRECT) == []


def test_libraries_are_as_loud_afterwards_as_before():
    import datasets
    from huggingface_hub import utils as hub
    from transformers.utils import logging

    def loud():
        return (logging.is_progress_bar_enabled(), not datasets.are_progress_bars_disabled(),
                not hub.are_progress_bars_disabled())
    assert loud() == (True, True, True)
    with quiet_libraries():
        assert loud() == (False, False, True)
        with quiet_libraries():
            assert loud() == (False, False, True)
        assert loud() == (False, False, True)
    assert loud() == (True, True, True)
    hub.disable_progress_bars()
    try:
        with quiet_libraries(), pytest.raises(KeyError), quiet_libraries():
            raise KeyError
        assert loud() == (True, True, False)
    finally:
        hub.enable_progress_bars()


def test_the_live_plot_says_in_words_where_the_training_is(monkeypatch):
    shown = []

    class Handle:
        update = shown.append

    monkeypatch.setattr("vlm_utils.plots.live.display",
                        lambda picture, display_id: shown.append(picture) or Handle)
    live = plots.LiveLoss(total=4, seconds=10)
    for step, seconds in enumerate((1.0, 5.0, 11.0, 12.0), start=1):
        live({"step": step, "loss": 2 / step, "learning_rate": 1e-3, "seconds": seconds})
    assert [picture.alt.split(". ")[1] for picture in shown] == [
        "At step 1 of 4 the loss is 2.", "At step 3 of 4 the loss is 0.667.",
        "At step 4 of 4 the loss is 0.5."]


def test_the_plot_of_a_resumed_run_keeps_what_came_before(monkeypatch):
    drawn = []
    monkeypatch.setattr("vlm_utils.plots.live.display", lambda picture, display_id: None)
    monkeypatch.setattr("vlm_utils.plots.live.draw_loss",
                        lambda history, total: drawn.append(history) or plots.new_figure(1, 1))
    rows = [{"step": step, "loss": 1.0, "learning_rate": 1e-3, "seconds": 1.0 * step}
            for step in (1, 2, 3)]
    live = plots.LiveLoss(total=9, earlier=rows[:2])
    live(rows[2])
    assert [history["step"].tolist() for history in drawn] == [[1, 2, 3]]
    assert len(rows[:2]) == 2                               # the run's own history is left alone
