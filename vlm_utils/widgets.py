"""An explorer for the notebook: choose a task and a sample, change the prompt, see the answer."""

from __future__ import annotations

from html import escape

import ipywidgets
from IPython.display import display

from vlm_utils.answering import answer_sample
from vlm_utils.datasets import Sample, TaskDataset
from vlm_utils.plots import as_picture, draw_images


class Explorer:
    """Samples of a TaskDataset with the model's answers, under controls of ipywidgets.

    The prompt can be edited; an error, such as a name of an image that is not there, is shown in
    place of the answer. `close()` lets go of model and data.
    """

    def __init__(self, model, processor, dataset: TaskDataset):
        self.model, self.processor, self.dataset = model, processor, dataset
        tasks = sorted({recipe.task for recipe in dataset.recipes})
        self.task = ipywidgets.Dropdown(options=tasks, description="task")
        self.number = ipywidgets.BoundedIntText(0, min=0, description="sample")
        self.prompt = ipywidgets.Textarea(description="prompt", rows=3,
                                          layout=ipywidgets.Layout(width="95%"))
        self.button = ipywidgets.Button(description="answer", button_style="primary")
        self.picture = ipywidgets.Image(format="png")
        self.answer = ipywidgets.HTML()
        self.task.observe(self._choose_task, "value")
        self.number.observe(self._choose_sample, "value")
        self.button.on_click(lambda _: self._answer())
        self.box = ipywidgets.VBox([
            ipywidgets.HBox([self.task, self.number]), self.prompt, self.button, self.picture,
            self.answer])
        self._choose_task()

    def show(self) -> None:
        """Put the controls into the notebook."""
        display(self.box)

    def close(self) -> None:
        """Remove the controls, their callbacks and the references to model and data."""
        self.task.unobserve_all()
        self.number.unobserve_all()
        self.button._click_handlers.callbacks.clear()
        for widget in (*self.box.children[0].children, *self.box.children, self.box):
            widget.close()
        self.model = self.processor = self.dataset = None

    def _choose_task(self, _=None) -> None:
        self.chosen = [i for i, recipe in enumerate(self.dataset.recipes)
                       if recipe.task == self.task.value]
        self.number.max = len(self.chosen) - 1
        if self.number.value:
            self.number.value = 0       # its observer shows the sample
        else:
            self._choose_sample()

    def _choose_sample(self, _=None) -> None:
        self.sample = self.dataset.with_images(self.chosen[self.number.value])
        self.prompt.value = self.sample.prompt
        self._answer()

    def _answer(self) -> None:
        sample = Sample(self.sample.images, self.prompt.value, None, self.sample.task)
        self.picture.value = as_picture(
            draw_images([sample.images]), "The images of the sample.").data
        try:
            text = answer_sample(self.model, self.processor, sample)
        except ValueError as error:
            self.answer.value = f"<b>cannot be asked:</b> {escape(str(error))}"
            return
        truth = self.sample.answer
        edited = self.prompt.value != self.sample.prompt
        note = "" if truth is None or edited else f"<br><b>truth:</b> {escape(truth)}"
        self.answer.value = f"<b>model:</b> {escape(text)}{note}"
