"""The explorer: what it shows first, what it says to a bad prompt, what it leaves behind."""

import base64
import gc
import io
import weakref
from html import escape, unescape

import pytest
from ipywidgets.widgets import widget as ipywidget
from PIL import Image
from test_plots import Images

from vlm_utils import memory, widgets
from vlm_utils.answering import answer_sample
from vlm_utils.architecture import MultiImageVLM
from vlm_utils.cross_attention import AskedImages, add_cross_attention
from vlm_utils.datasets import Recipe, Sample, TaskDataset, build_tasks
from vlm_utils.widgets import AGAIN, LIVE_REGION, Explorer


def recipe(rows, prompt, answer, task):
    return Recipe(tuple(rows), "<image>" * len(rows) + prompt, answer, task)


@pytest.fixture
def dataset(earth_table):
    """Two tasks whose first samples show nothing."""
    return TaskDataset(earth_table, [
        recipe([60, 61], "What changed?", "Nothing changed.", "compare"),
        recipe([0], "Is there a lake?", "No.", "refer"),
        recipe([62, 63], "What changed?", "Nothing changed.", "compare"),
        recipe([3], "Is there a road?", "Yes.", "refer"),
        recipe([64, 65], "What changed?", "The lake in the top left grew.", "compare"),
        recipe([4], "Is there a fire?", "No.", "refer")])


@pytest.fixture
def explorer(model, processor, dataset):
    made = Explorer(model, processor, dataset)
    yield made
    made.close()


@pytest.fixture(params=["in the sequence", "beside it"])
def design(request, model, processor):
    """Both models of the course, each with its processor."""
    if request.param == "beside it":
        return add_cross_attention(model, processor, layers=[0])
    return model, processor


def said(explorer) -> str:
    """The answer as it is read: without tags."""
    assert explorer.answer.value.startswith(LIVE_REGION)
    text = explorer.answer.value.removeprefix(LIVE_REGION)
    for tag in ("<b>", "</b>"):
        text = text.replace(tag, "")
    return unescape(text.replace("<br>", "\n"))


def test_it_begins_with_a_sample_in_which_something_happens(explorer):
    assert explorer.task.value == "compare" and explorer.number.value == 2
    assert "truth: The lake in the top left grew." in said(explorer)
    explorer.task.value = "refer"
    assert explorer.number.value == 1 and explorer.prompt.value == "<image>Is there a road?"
    assert "truth: Yes." in said(explorer)


def test_where_nothing_ever_happens_it_begins_with_the_first(model, processor, earth_table):
    quiet = TaskDataset(earth_table, [
        recipe([0], "Is there a lake?", "No.", "refer"),
        recipe([1], "Describe the image.", None, "describe")])
    explorer = Explorer(model, processor, quiet)
    assert explorer.task.value == "describe" and "truth" not in said(explorer)
    explorer.task.value = "refer"
    assert explorer.number.value == 0 and "truth: No." in said(explorer)
    explorer.close()


def test_every_sample_of_every_task_is_within_reach(explorer):
    for task in explorer.task.options:
        explorer.task.value = task
        for number in range(explorer.number.max + 1):
            explorer.number.value = number
            shown = explorer.dataset.recipes[explorer.chosen[number]]
            assert explorer.prompt.value == shown.prompt and shown.task == task
            assert f"truth: {shown.answer}" in said(explorer)
    assert explorer.number.max == 2


def test_it_answers_what_the_model_answers(explorer, model, processor):
    explorer.prompt.value = "<image><image>Where is the road?"
    sample = Sample(explorer.sample.images, explorer.prompt.value, None, "compare")
    assert said(explorer) == f"model: {answer_sample(model, processor, sample)}"
    assert "truth" not in said(explorer), "the truth belongs to another question"


@pytest.mark.parametrize("prompts", [
    ["<image><image>Where is the road?", "<image><image>Where is the lake?", "<image><image>Where"],
    ["<image>Where is the road?<image>", "What is this?<image> And this?<image>",
     "<image><image>What changed?"]])
def test_a_changed_prompt_does_not_encode_the_images_again(design, dataset, monkeypatch, prompts):
    model, processor = design
    encoded, encode = [], MultiImageVLM.encode_images
    monkeypatch.setattr(MultiImageVLM, "encode_images", lambda self, pixels: encoded.append(
        len(pixels)) or encode(self, pixels))
    explorer = Explorer(model, processor, dataset)
    answers = []
    for prompt in prompts:
        explorer.prompt.value = prompt
        answers.append(said(explorer).splitlines()[0])
    assert encoded == [2]
    images = explorer.sample.images
    explorer.number.value = 0                   # other images
    other = said(explorer).splitlines()[0]
    assert encoded == [2, 2]
    alone = [f"model: {answer_sample(model, processor, Sample(images, prompt, None, 'compare'))}"
             for prompt in prompts]
    assert answers == alone
    assert other == f"model: {answer_sample(model, processor, explorer.sample)}"
    explorer.close()


def test_a_prompt_that_cannot_be_asked_encodes_nothing_and_spoils_nothing(
        design, dataset, monkeypatch):
    model, processor = design
    dataset.recipes = [recipe([0, 1], "Where is <image_3>?", "No.", "compare")]
    encoded, encode = [], MultiImageVLM.encode_images
    monkeypatch.setattr(MultiImageVLM, "encode_images", lambda self, pixels: encoded.append(
        len(pixels)) or encode(self, pixels))
    explorer = Explorer(model, processor, dataset)
    assert "names <image_3> and 2 images were given" in said(explorer) and encoded == []
    explorer.prompt.value = "<image><image>What changed?"
    first = said(explorer)
    for wrong in ("What changed?", "<image><image>" + "very " * 600 + "long?"):
        explorer.prompt.value = wrong
        assert said(explorer).startswith("cannot be asked: ")
    explorer.prompt.value = "<image><image>What changed?"
    assert said(explorer) == first and encoded == [2]
    explorer.close()


def test_leaving_the_prompt_and_pressing_the_button_ask_once(explorer, monkeypatch):
    asked = []
    monkeypatch.setattr(AskedImages, "answer", lambda _, prompt: asked.append(prompt) or "Yes.")
    # The button's message may come before the prompt's: it must not answer the old one again.
    explorer.button.click()
    assert asked == []
    explorer.prompt.value = "<image><image>What is new?"
    explorer.button.click()
    assert asked == ["<image><image>What is new?"]
    assert not explorer.prompt.continuous_update
    explorer.number.value = 0           # another sample with the same question is asked again
    explorer.number.value = 1
    assert asked[1:] == ["<image><image>What changed?"] * 2


@pytest.mark.parametrize(("prompt", "reason"), [
    ("", "the prompt is empty"),
    (" \n<image><image>", "the prompt is empty"),
    ("What changed?", "the prompt has 0 <image> placeholders and 2 images were given"),
    ("<image>" * 3 + "What changed?", "the prompt has 3 <image> placeholders"),
    ("<image><image>Where is <image_3>?", "the prompt names <image_3> and 2 images were given"),
    ("<image><image>Where is <image_0>?", "the prompt names <image_0>"),
    ("<image><image>" + "very " * 600 + "long?", "more than the 512 the model can hold"),
    ("<image><image>half a letter \ud800", "surrogates not allowed")])
def test_a_prompt_that_cannot_be_asked_is_answered_with_the_reason(explorer, prompt, reason):
    explorer.prompt.value = prompt
    assert said(explorer).startswith("cannot be asked: ") and reason in said(explorer)
    assert "\n" not in said(explorer) and "of the batch" not in said(explorer)
    explorer.prompt.value = explorer.sample.prompt
    assert said(explorer).startswith("model: ") and "truth: " in said(explorer)


def test_what_it_shows_is_text_and_never_markup(model, processor, dataset, monkeypatch):
    nasty = "<script>alert('x')</script> & \"more\""
    monkeypatch.setattr(AskedImages, "answer", lambda *_: nasty)
    monkeypatch.setattr(dataset.table.truth, "captions", [[nasty]] * len(dataset.table))
    dataset.recipes = [recipe([0, 1], nasty, nasty, "compare")]
    explorer = Explorer(model, processor, dataset)
    assert explorer.answer.value.count(escape(nasty)) == 2
    image, = Images(explorer.picture.value).found
    assert image["alt"] == f"Image 1: {nasty} Image 2: {nasty}"
    assert "<script" not in explorer.answer.value + explorer.picture.value
    explorer.close()


def test_its_picture_says_what_it_shows_and_has_its_own_size(explorer):
    captions = explorer.dataset.table.truth.captions
    image, = Images(explorer.picture.value).found
    assert image["alt"] == f"Image 1: {captions[64][0]} Image 2: {captions[65][0]}"
    assert "width" not in image and "style" not in image
    png = base64.b64decode(image["src"].removeprefix("data:image/png;base64,"))
    assert 200 < Image.open(io.BytesIO(png)).width < 400


def test_images_without_captions_are_not_described(model, processor, dataset, monkeypatch):
    monkeypatch.setattr(dataset.table.truth, "captions", [[]] * len(dataset.table))
    explorer = Explorer(model, processor, dataset)
    image, = Images(explorer.picture.value).found
    assert image["alt"] == "Image 1: not described. Image 2: not described."
    explorer.close()


def test_the_answer_is_a_live_region_that_stays(explorer):
    """The region must be there before its words change; ipywidgets replaces all it is given."""
    assert "aria-live', 'polite'" in LIVE_REGION and "this.parentElement" in LIVE_REGION
    for prompt in ("", "<image><image>What is new?"):
        explorer.prompt.value = prompt
        assert explorer.answer.value.count("aria-live") == 1
    assert "aria-live" not in explorer.picture.value


def test_without_a_kernel_there_is_a_page_and_what_to_do(explorer, monkeypatch):
    shown = []
    monkeypatch.setattr(widgets, "display", lambda data, raw: shown.append(data))
    explorer.show()
    controls, hint = shown
    assert "application/vnd.jupyter.widget-view+json" in controls
    assert "What changed?" in controls["text/html"]
    assert "The lake in the top left grew." in controls["text/html"]
    assert len(Images(controls["text/html"]).found) == 1
    assert "style" not in controls["text/html"], "no region is live without a kernel"
    assert AGAIN in hint["text/html"] and "run this cell again" in AGAIN


def test_an_empty_data_set_is_refused(model, processor, earth_table):
    with pytest.raises(ValueError, match="holds no sample"):
        Explorer(model, processor, TaskDataset(earth_table, []))


@pytest.mark.parametrize("beside", [False, True])
def test_close_frees_model_and_data_and_removes_the_controls(make_model, processor, earth_table,
                                                             beside):
    dataset = build_tasks(earth_table, {"select 2": 2}, 0)
    before = set(ipywidget._instances)
    made = make_model(), processor
    explorer = Explorer(*(add_cross_attention(*made, layers=[0]) if beside else made), dataset)
    del made
    assert set(ipywidget._instances) - before
    model, data = weakref.ref(explorer.model), weakref.ref(dataset)
    images = weakref.ref(explorer.images)
    controls = [explorer.task, explorer.number, explorer.prompt, explorer.button, explorer.picture,
                explorer.answer, explorer.box]
    del dataset
    gc.collect()
    assert model() is not None and data() is not None and images() is not None
    explorer.close()
    assert memory.is_freed(model) and memory.is_freed(data) and memory.is_freed(images)
    assert all(control.comm is None for control in controls)
    assert set(ipywidget._instances) == before, "sizes and styles are widgets too"
