"""Many questions about the same images: what was computed of the images is kept.

Beside the sequence these are the images' keys and values in every block; in the sequence it is the
cache of the prompt's beginning, up to where the other prompts differ from it.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence

import torch
from PIL import Image
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import Cache, DynamicCache
from transformers.cache_utils import DynamicLayer

from vlm_utils.architecture import IMAGE_TOKEN, MultiImageProcessor, MultiImageVLM
from vlm_utils.architecture.model import mismatch_message
from vlm_utils.cross_attention.model import CrossAttentionVLM

AT_ONCE = 32        # questions in one batch
# Arguments of `generate` that leave greedy decoding what it is.
GREEDY = {"do_sample", "max_new_tokens", "min_new_tokens", "pad_token_id", "eos_token_id",
          "use_cache"}


def ask(model: MultiImageVLM, processor: MultiImageProcessor, images: Sequence[Image.Image],
        questions: Sequence[str], max_new_tokens: int = 48, **generation) -> list[str]:
    """An answer to each question about the same images, which are computed once.

    A question has an `<image>` for each image, or none: then the images come first. The answers are
    those that each question would get alone. generation: see `answer_samples`.
    Raises ValueError naming the question that does not fit the images.
    """
    return AskedImages(model, processor, images).answers(questions, max_new_tokens, **generation)


class AskedImages:
    """Images that were encoded once, and what the model keeps of them from question to question.

    They are those of the model as it was then: after more training, make another AskedImages.
    """

    def __init__(self, model: MultiImageVLM, processor: MultiImageProcessor,
                 images: Sequence[Image.Image]):
        self.model, self.processor, self.count = model.eval(), processor, len(images)
        self.features = None                                    # (num_images, patches, dim)
        if images:
            with torch.inference_mode():
                self.features = model.encode_images(
                    processor.pixel_values(images).to(model.device))
        kind = KeptBeside if isinstance(model, CrossAttentionVLM) else KeptInSequence
        self.kept = kind(model, self.features)

    def answer(self, question: str, max_new_tokens: int = 48, **generation) -> str:
        """The model's answer. Raises ValueError if the question does not fit the images."""
        return self._answers([self._encode(question)], max_new_tokens, generation)[0]

    def answers(self, questions: Sequence[str], max_new_tokens: int = 48,
                **generation) -> list[str]:
        """The model's answer to each. Raises ValueError naming the question that does not fit."""
        prompts = []
        for position, question in enumerate(questions, start=1):
            try:
                prompts.append(self._encode(question))
            except ValueError as error:
                raise ValueError(f"question {position}, {question!r}: {error}") from error
        return self._answers(prompts, max_new_tokens, generation)

    def _encode(self, question: str) -> list[int]:
        if IMAGE_TOKEN not in question:
            question = IMAGE_TOKEN * self.count + question
        ids = self.processor.encode_prompt(question, self.count)
        self.processor.check_length(len(ids), self.count)
        self.kept.check(ids)
        return ids

    def _answers(self, prompts: list[list[int]], max_new_tokens: int,
                 generation: dict) -> list[str]:
        settings = {"do_sample": False} | generation | {
            "max_new_tokens": max_new_tokens, "pad_token_id": self.processor.pad_token_id}
        self.model.eval()
        together = AT_ONCE if are_told_apart(self.model, settings) else 1
        with torch.inference_mode():
            return [self.processor.decode(row) for group in batched(prompts, together)
                    for row in self.kept.generate(group, settings)]


def are_told_apart(model: MultiImageVLM, settings: dict) -> bool:
    """Does each prompt of a batch get what it would get alone? Greedy decoding gives it that, and
    nothing else is sure to: of the penalty for repeating, transformers 5.23 takes so many new
    tokens out as a prompt has padding in front."""
    penalty = model.generation_config.repetition_penalty
    return (settings.keys() <= GREEDY and not settings["do_sample"] and penalty in (None, 1.0)
            and sequences_of(model, settings) == 1)


def sequences_of(model: MultiImageVLM, settings: dict) -> int:
    """How many sequences `generate` goes on with at once for each prompt."""
    config = settings.get("generation_config") or model.generation_config
    return max(settings.get(name) or getattr(config, name) or 1
               for name in ("num_beams", "num_return_sequences"))


class KeptBeside:
    """Keys and values of the images, of one model with cross-attention."""

    def __init__(self, model: CrossAttentionVLM, features: Tensor | None):
        self.model, self.keys_values = model, None
        self.count = 0 if features is None else len(features)
        if features is not None:
            with torch.inference_mode():
                counts = torch.tensor([self.count], device=model.device)
                self.keys_values = model.keys_values(features, counts)

    @property
    def num_bytes(self) -> int:
        return 0 if self.keys_values is None else self.keys_values.nbytes

    def check(self, ids: list[int]) -> None:
        """Raises ValueError if a prompt has another number of placeholders than there are images.
        """
        if (found := ids.count(self.model.config.image_token_id)) != self.count:
            raise ValueError(mismatch_message([found], self.count, 1))

    def generate(self, prompts: Sequence[list[int]], settings: dict) -> Tensor:
        """New token ids (prompts, new_tokens). All prompts read the same keys and values."""
        batch = padded_on_the_left(prompts, settings["pad_token_id"], self.model.device)
        if self.keys_values is not None:        # expanded: a view, which takes no memory
            batch |= {"image_keys_values": self.keys_values.expand(
                          len(prompts), *self.keys_values.shape[1:]),
                      "image_mask": self.model.mask(batch["input_ids"], self.count)}
        return self.model.generate(**batch, **settings)


class KeptInSequence:
    """The cache of the last prompts' common beginning, of which the next take what they share."""

    def __init__(self, model: MultiImageVLM, features: Tensor | None):
        self.model, self.features = model, features
        self.cache, self.ids = DynamicCache(config=model.language_model.config), []

    @property
    def num_bytes(self) -> int:
        """Of the part of the cache that is kept, images and shared text."""
        return sum(part.nbytes for layer in self.cache.layers if layer.is_initialized
                   for part in (layer.keys, layer.values))

    def check(self, ids: list[int]) -> None:
        """Every prompt that the processor makes fits: `embed` counts again."""

    def generate(self, prompts: Sequence[list[int]], settings: dict) -> list[Tensor]:
        """New token ids of each prompt. Prompts that are alike up to their last image are read
        together, and each of the others by itself."""
        places: dict[tuple[int, ...], list[int]] = {}
        for place, ids in enumerate(prompts):
            places.setdefault(self._up_to_the_last_image(ids), []).append(place)
        answers: dict[int, Tensor] = {}
        for group in places.values():
            together = [prompts[place] for place in group]
            found = (self._generate(together[0], settings)[None] if len(group) == 1
                     else self._generate_together(together, settings))
            answers |= zip(group, found, strict=True)
        return [answers[place] for place in range(len(prompts))]

    def _up_to_the_last_image(self, ids: list[int]) -> tuple[int, ...]:
        image = self.model.config.image_token_id
        return tuple(ids[:max((place + 1 for place, token in enumerate(ids) if token == image),
                              default=0)])

    def _generate_together(self, prompts: list[list[int]], settings: dict) -> Tensor:
        """New token ids (prompts, new_tokens) of prompts that begin alike, images included. The
        cache of that beginning is one, whose rows are views; each prompt adds what is its own."""
        # The last place of each gives its first answer, so it is its own.
        shared = min(shared_beginning(prompts[0], ids[:-1]) for ids in prompts)
        known = shared_beginning(self.ids, prompts[0][:shared])
        if self.model.config.image_token_id in prompts[0][known:shared]:
            self._read(torch.tensor([prompts[0][:shared]], device=self.model.device))
            self.ids = prompts[0][:shared]
        else:
            shared, self.ids = known, self.ids[:known]
        self._keep_beginning()
        own = padded_on_the_left([ids[shared:] for ids in prompts], settings["pad_token_id"],
                                 self.model.device)
        beginning = torch.tensor(prompts[0][:shared], dtype=torch.long, device=self.model.device)
        whole = {name: torch.cat([first.expand(len(prompts), -1), own[name]], dim=1)
                 for name, first in {"input_ids": beginning,
                                     "attention_mask": torch.ones_like(beginning)}.items()}
        layers = [AfterShared(layer) for layer in self.cache.layers]
        return self.model.language_model.generate(
            inputs_embeds=self.model.get_input_embeddings()(whole["input_ids"]),
            attention_mask=whole["attention_mask"],
            past_key_values=Cache(layers=layers) if shared else None, **settings)

    def _generate(self, ids: list[int], settings: dict) -> Tensor:
        input_ids = torch.tensor([ids], device=self.model.device)
        shared = shared_beginning(self.ids, ids[:-1])       # the last place gives the first answer
        if self.model.config.image_token_id in ids[shared:]:
            self._read(input_ids[:, :-1])
            shared = len(ids) - 1
        self.ids = ids[:shared]         # stays true if an error or the stop button ends the next
        self._keep_beginning()
        cache = self.cache
        if (rows := sequences_of(self.model, settings)) > 1:
            cache = copy.deepcopy(cache)                    # every beam has a sequence of its own
            cache.batch_repeat_interleave(rows)
        # Embeddings, as one question alone: a penalty for repeating then counts new tokens only.
        # What the cache holds is not read, so the images need not stand at their places.
        new = self.model.language_model.generate(
            inputs_embeds=self.model.get_input_embeddings()(input_ids), past_key_values=cache,
            attention_mask=torch.ones_like(input_ids), **settings)
        if cache is self.cache:
            self.ids = ids
            self._keep_beginning()
        return new[0]

    def _keep_beginning(self) -> None:
        """Of the cache what belongs to `ids`; the rest goes."""
        if (more := self.cache.get_seq_length() - len(self.ids)) > 0:
            self.cache.crop(-more)

    def _read(self, input_ids: Tensor) -> None:
        """Fill the cache with a whole prompt, images and text."""
        self.cache, self.ids = DynamicCache(config=self.model.language_model.config), []
        embeds = self.model.embed(input_ids, image_features=self.features)
        self.model.language_model.model(inputs_embeds=embeds, past_key_values=self.cache,
                                        use_cache=True)


class AfterShared(DynamicLayer):
    """The cache of one layer for several rows with one beginning: `beginning` (1, heads, length,
    head_dim) is kept once for all, and its rows are put before each row's own only while the layer
    reads them."""

    def __init__(self, beginning: DynamicLayer):
        super().__init__()
        self.beginning = beginning

    def update(self, key_states: Tensor, value_states: Tensor, *args, **kwargs
               ) -> tuple[Tensor, Tensor]:
        own = super().update(key_states, value_states, *args, **kwargs)
        kept = self.beginning.keys, self.beginning.values
        return tuple(torch.cat([first.expand(len(rest), -1, -1, -1), rest], dim=-2)
                     for first, rest in zip(kept, own, strict=True))

    def get_seq_length(self) -> int:
        return self.beginning.get_seq_length() + super().get_seq_length()


def padded_on_the_left(prompts: Sequence[list[int]], pad_token_id: int, device: torch.device
                       ) -> dict[str, Tensor]:
    """`input_ids` and `attention_mask` (prompts, length) of prompts of different lengths."""
    rows = {"input_ids": ([torch.tensor(ids) for ids in prompts], pad_token_id),
            "attention_mask": ([torch.ones(len(ids), dtype=torch.long) for ids in prompts], 0)}
    return {name: pad_sequence(row, True, filler, "left").to(device)
            for name, (row, filler) in rows.items()}


def shared_beginning(first: Sequence[int], second: Sequence[int]) -> int:
    """How many numbers two sequences have in common before they first differ."""
    for position, (one, other) in enumerate(zip(first, second, strict=False)):
        if one != other:
            return position
    return min(len(first), len(second))


def batched(items: Sequence, size: int) -> Iterator[Sequence]:
    """Neighbours in groups of at most `size`."""
    return (items[start:start + size] for start in range(0, len(items), size))
