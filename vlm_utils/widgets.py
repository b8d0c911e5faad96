"""An explorer for the notebook: choose a task and a sample, change the prompt, see the answer."""

from __future__ import annotations

from html import escape

import ipywidgets
from IPython.display import display

from vlm_utils.cross_attention import AskedImages
from vlm_utils.datasets import TaskDataset
from vlm_utils.plots import as_picture, draw_images

AGAIN = ("The explorer needs the kernel that made it: if it does not answer, or is not there, run "
         "this cell again.")
# A screen reader speaks what changes inside a region that it has seen before. ipywidgets writes
# this HTML anew each time, and keeps the box around it: so the box becomes the region.
LIVE_REGION = """<style onload="this.parentElement.setAttribute('aria-live', 'polite')"></style>"""


class Explorer:
    """Samples of a TaskDataset with the model's answers, under controls of ipywidgets.

    The prompt can be edited; if it cannot be asked, as when it names an image that is not there,
    the reason is shown in place of the answer. The images of a sample are encoded once, however
    many prompts are asked about them. `close()` lets go of model and data.
    """

    def __init__(self, model, processor, dataset: TaskDataset):
        if not len(dataset):
            raise ValueError("the data set holds no sample to explore")
        self.model, self.processor, self.dataset = model, processor, dataset
        tasks = sorted({recipe.task for recipe in dataset.recipes})
        self.task = ipywidgets.Dropdown(options=tasks, description="task")
        self.number = ipywidgets.BoundedIntText(0, min=0, description="sample")
        # A prompt is sent when the cursor leaves it: sent letter by letter, the button could be
        # faster than the last of them, and the answer would be to half a question.
        self.prompt = ipywidgets.Textarea(description="prompt", rows=3, continuous_update=False,
                                          layout=ipywidgets.Layout(width="95%"))
        self.button = ipywidgets.Button(description="answer", button_style="primary")
        self.picture, self.answer = ipywidgets.HTML(), ipywidgets.HTML()
        self.box = ipywidgets.VBox([
            ipywidgets.HBox([self.task, self.number]), self.prompt, self.button, self.picture,
            self.answer])
        self.task.observe(self._choose_task, "value")
        self.number.observe(self._choose_sample, "value")
        self.prompt.observe(self._ask, "value")
        self.button.on_click(self._ask)
        self._choose_task()

    def show(self) -> None:
        """Put the controls into the notebook.

        A page goes with them, for a reader without a kernel: the sample, its images, the answer.
        """
        page = (f"<p><b>{escape(self.task.value)}:</b> {escape(self.prompt.value)}</p>"
                f"{self.picture.value}<p>{self.answer.value.removeprefix(LIVE_REGION)}</p>")
        display(self.box._repr_mimebundle_() | {"text/html": page}, raw=True)
        # An output of its own: in the place of a widget without a kernel JupyterLab puts an error.
        display({"text/html": f"<p><small>{AGAIN}</small></p>", "text/plain": AGAIN}, raw=True)

    def close(self) -> None:
        """Remove the controls, their callbacks and the references to model and data."""
        self.task.unobserve_all()
        self.number.unobserve_all()
        self.prompt.unobserve_all()
        self.button.on_click(self._ask, remove=True)
        for widget in (*self.box.children[0].children, *self.box.children, self.box):
            # Each has widgets of its own for its size and style, which live on without it.
            parts = [widget.layout, getattr(widget, "style", None)]
            for part in (widget, *filter(None, parts)):
                part.close()
        self.model = self.processor = self.dataset = self.sample = self.images = None

    def _choose_task(self, _=None) -> None:
        """The samples of the task; of these, the first in which something happens."""
        self.chosen = [i for i, recipe in enumerate(self.dataset.recipes)
                       if recipe.task == self.task.value]
        first = next((n for n, i in enumerate(self.chosen)
                      if not _says_nothing(self.dataset.recipes[i].answer)), 0)
        before = self.number.value
        self.number.max = len(self.chosen) - 1
        self.number.value = first
        if self.number.value == before:     # else its observer has shown the sample
            self._choose_sample()

    def _choose_sample(self, _=None) -> None:
        index = self.chosen[self.number.value]
        self.sample = self.dataset.with_images(index)
        self.images = self.asked = None     # what was computed of the last sample's images goes
        self.picture.value = as_picture(
            draw_images([self.sample.images]), self._describe(index)).html
        self.prompt.value = self.sample.prompt      # its observer asks, if this changed it
        self._ask()

    def _describe(self, index: int) -> str:
        """The images of a sample in words: the first caption of each, as far as there is one."""
        captions = self.dataset.table.truth.captions
        rows = self.dataset.recipes[index].rows
        return " ".join(f"Image {k}: {(captions[row] or ['not described.'])[0]}"
                        for k, row in enumerate(rows, start=1)) or "No image."

    def _ask(self, _=None) -> None:
        """Answer the prompt, once: leaving it and pressing the button both come here."""
        if self.prompt.value == self.asked:
            return
        self.asked = self.prompt.value
        try:
            text = self._answer(self.prompt.value)
        except ValueError as error:
            words = f"<b>cannot be asked:</b> {escape(str(error))}"
        else:
            words = f"<b>model:</b> {escape(text)}"
            if self.sample.answer is not None and self.prompt.value == self.sample.prompt:
                words += f"<br><b>truth:</b> {escape(self.sample.answer)}"
        self.answer.value = LIVE_REGION + words

    def _answer(self, prompt: str) -> str:
        """The model's answer. Raises ValueError if the prompt cannot be asked of these images."""
        prompt.encode("utf-8")              # half a character, out of a bad paste, fails here
        # AskedImages takes a prompt without <image>, and puts the images in front. Here the prompt
        # is shown, and is to be what the model reads: without them it is refused.
        self.processor.lay_out(prompt, len(self.sample.images))
        if self.images is None:
            self.images = AskedImages(self.model, self.processor, self.sample.images)
        return self.images.answer(prompt)


def _says_nothing(answer: str | None) -> bool:
    """Is an answer "Nothing changed.", "No." or the like: true, and a dull first sample?"""
    return answer is not None and answer.split()[0].strip(".").lower() in ("nothing", "no", "none")
