"""Other people's programs: AutoModel, AutoProcessor and pipeline know the model once this is read.

`import vlm_utils.architecture` reads it. `import vlm_utils` alone does not: it loads neither torch
nor transformers, so that the command line answers at once.

    import vlm_utils.architecture
    from transformers import pipeline

    ask = pipeline("image-text-to-text", model="build/tiny/lesson_04")
    ask(images=[before, after], text="<image><image>What changed?", return_full_text=False)
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from torch.nn.utils.rnn import pad_sequence
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForImageTextToText,
    AutoProcessor,
    BatchFeature,
    ProcessorMixin,
)

from vlm_utils.architecture.config import MultiImageVLMConfig
from vlm_utils.architecture.model import MultiImageVLM
from vlm_utils.architecture.processor import IMAGE_TOKEN, MultiImageProcessor

# What transformers' loaders hand on about repositories of its hub; a folder has none of it.
_OF_THE_HUB = {"_from_auto", "_from_pipeline", "trust_remote_code", "revision", "code_revision",
               "token", "local_files_only", "cache_dir", "force_download", "dtype"}


class AutoMultiImageProcessor(MultiImageProcessor, ProcessorMixin):
    """The processor as transformers calls it: processor(images=images, text=prompts)."""

    chat_template = None

    @classmethod
    def from_pretrained(cls, folder: str | Path, **changes) -> AutoMultiImageProcessor:
        """As MultiImageProcessor.from_pretrained."""
        return super().from_pretrained(
            folder, **{name: value for name, value in changes.items() if name not in _OF_THE_HUB})

    def __call__(self, images: Image.Image | Sequence | None = None,
                 text: str | Sequence[str] | None = None, **options) -> BatchFeature:
        """Prompts as one batch to generate from, padded on the left.

        text: a prompt, or several, with an `<image>` for each image; a single prompt without any
        has its images in front. images: of all prompts, one after another or one list per prompt.
        Returns input_ids and attention_mask (batch, length), and with images pixel_values
        (num_images, 3, height, width). Raises ValueError, naming the prompt, if it does not fit
        its images. options: return_tensors and padding, as always, are accepted and not needed.
        """
        if unknown := options.keys() - {"return_tensors", "padding"}:
            raise TypeError(f"unknown options {sorted(unknown)}: prompts are laid out as the "
                            "model was trained; nothing is cut")
        pictures = _flat(images)
        prompts = list(text) if isinstance(text, list | tuple) else [text]
        if not prompts or not all(isinstance(prompt, str) for prompt in prompts):
            raise ValueError(f"text is {text!r:.60}, not a prompt or a list of prompts")
        if len(prompts) == 1 and IMAGE_TOKEN not in prompts[0]:
            prompts = [IMAGE_TOKEN * len(pictures) + prompts[0]]
        rows = []
        counts = [prompt.count(IMAGE_TOKEN) for prompt in prompts]
        _refuse_other_lists(images, counts)
        if sum(counts) != len(pictures):
            raise ValueError(f"the prompts have {counts} {IMAGE_TOKEN} placeholders and "
                             f"{len(pictures)} images were given: write one for each image")
        for position, (prompt, count) in enumerate(zip(prompts, counts, strict=True)):
            try:
                ids = self.encode_prompt(prompt, count)
                self.check_length(len(ids))
            except ValueError as error:
                raise ValueError(f"prompt {position}: {error}") from error
            rows.append(torch.tensor(ids))
        batch = {
            "input_ids": pad_sequence(rows, batch_first=True, padding_value=self.pad_token_id,
                                      padding_side="left"),                 # (batch, length)
            "attention_mask": pad_sequence([torch.ones_like(row) for row in rows],
                                           batch_first=True, padding_side="left")}
        if pictures:
            batch["pixel_values"] = self.pixel_values(pictures)     # (num_images, 3, h, w)
        return BatchFeature(batch)

    def post_process_image_text_to_text(self, generated_outputs, skip_special_tokens: bool = True,
                                        **options) -> list[str]:
        """Texts of token ids (batch, length); identifiers stay, they are words of the answer."""
        return [self.decode(row) for row in generated_outputs]

    def apply_chat_template(self, conversation, **options):
        """Raises ValueError: the model answers one prompt at a time."""
        raise ValueError("the model answers a prompt, not a chat: give images=[...] and "
                         "text='<image><image>What changed?'")


def _refuse_other_lists(images, counts: list[int]) -> None:
    """Raise ValueError if lists of images, one for each prompt, are not those of the prompts: an
    image would go to the prompt after its own."""
    if not isinstance(images, list | tuple) or not any(
            each is None or isinstance(each, list | tuple) for each in images):
        return
    given = [len(_flat(each)) for each in images]
    if given != counts:
        raise ValueError(f"the prompts have {counts} {IMAGE_TOKEN} placeholders and their lists "
                         f"hold {given} images: give one list for each prompt, with an image for "
                         "each placeholder")


def _flat(images) -> list[Image.Image]:
    """Images of one prompt, or a list of lists, one after another. What is not a list is taken for
    an image: `pixel_values` refuses what is not one by its name."""
    if images is None:
        return []
    if isinstance(images, str | bytes) or not isinstance(images, Sequence):
        return [images]
    return [picture for each in images for picture in _flat(each)]


AutoConfig.register(MultiImageVLMConfig.model_type, MultiImageVLMConfig)
for _door in (AutoModel, AutoModelForImageTextToText):
    _door.register(MultiImageVLMConfig, MultiImageVLM)
AutoProcessor.register(MultiImageVLMConfig, AutoMultiImageProcessor)
