"""Many questions about the same images: what was computed of the images is kept.

Beside the sequence these are the images' keys and values in every block; in the sequence it is the
cache of the prompt's beginning, up to where the next prompt differs from it. Either way, questions
that are asked together are answered together, and read one copy of it.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence

import torch
from PIL import Image
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import DynamicCache

from vlm_utils.architecture import IMAGE_TOKEN, MultiImageProcessor, MultiImageVLM
from vlm_utils.architecture.model import mismatch_message
from vlm_utils.cross_attention.model import CrossAttentionVLM

AT_ONCE = 32        # questions in one batch
# Arguments of `generate` that leave greedy decoding what it is.
GREEDY = {"do_sample", "max_new_tokens", "min_new_tokens", "pad_token_id", "eos_token_id",
          "use_cache"}
# What a model's generation_config may hold without a say in greedy decoding. are_told_apart looks
# at beams and penalties.
PLAIN = {"bos_token_id", "eos_token_id", "pad_token_id", "do_sample", "temperature", "top_k",
         "top_p", "max_length", "max_new_tokens", "use_cache", "num_beams", "num_return_sequences",
         "repetition_penalty", "output_attentions", "output_hidden_states", "transformers_version",
         "_from_model_config"}


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
        rows = {"input_ids": ([torch.tensor(ids) for ids in prompts], settings["pad_token_id"]),
                "attention_mask": ([torch.ones(len(ids), dtype=torch.long) for ids in prompts], 0)}
        batch = {name: pad_sequence(row, True, filler, "left").to(self.model.device)
                 for name, (row, filler) in rows.items()}               # (prompts, length)
        if self.keys_values is not None:        # expanded: a view, which takes no memory
            batch |= {"image_keys_values": self.keys_values.expand(
                          len(prompts), *self.keys_values.shape[1:]),
                      "image_mask": self.model.mask(batch["input_ids"], self.count)}
        return self.model.generate(**batch, **settings)


class KeptInSequence:
    """The cache of the last prompt, of which the next one takes the beginning that both share."""

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
        """New token ids of each prompt. Those that are equal up to their last image are answered
        together, from one cache; the others one after the other, each beginning with the cache of
        the last. In an ordinary batch each would need a copy of it."""
        new: dict[int, Tensor] = {}
        for group in self._groups(prompts):
            if len(group) == 1 or not can_share_a_row(self.model):
                found = [self._generate(prompts[k], settings) for k in group]
            else:
                found = self._together([prompts[k] for k in group], settings)
            new |= zip(group, found, strict=True)
        return [new[k] for k in range(len(prompts))]

    def _groups(self, prompts: Sequence[list[int]]) -> list[list[int]]:
        """Positions of prompts that are equal up to their last image."""
        groups: dict[tuple[int, ...], list[int]] = {}
        for position, ids in enumerate(prompts):
            end = max((k + 1 for k, token in enumerate(ids)
                       if token == self.model.config.image_token_id), default=0)
            groups.setdefault(tuple(ids[:end]), []).append(position)
        return list(groups.values())

    def _generate(self, ids: list[int], settings: dict) -> Tensor:
        self._hold(ids[:-1])                                # the last place gives the first answer
        cache = self.cache
        if (rows := sequences_of(self.model, settings)) > 1:
            cache = copy.deepcopy(cache)                    # every beam has a sequence of its own
            cache.batch_repeat_interleave(rows)
        # Embeddings, as one question alone: a penalty for repeating then counts new tokens only.
        # What the cache holds is not read, so the images need not stand at their places.
        input_ids = torch.tensor([ids], device=self.model.device)
        new = self.model.language_model.generate(
            inputs_embeds=self.model.get_input_embeddings()(input_ids), past_key_values=cache,
            attention_mask=torch.ones_like(input_ids), **settings)
        if cache is self.cache:
            self.ids = ids
            self._keep_beginning()
        return new[0]

    def _together(self, prompts: Sequence[list[int]], settings: dict) -> list[Tensor]:
        """Greedy answers to prompts that share all images, from one cache and without a copy of it.

        A prompt that has given its end token drops out, the others go on.
        """
        self._hold(prompts[0][:min(shared_beginning(prompts[0], ids[:-1]) for ids in prompts)])
        row = SharedRow(self.model, self.cache, len(prompts))
        ends, least = end_tokens(self.model, settings), settings.get("min_new_tokens") or 0
        answers: list[list[int]] = [[] for _ in prompts]
        tokens = {k: ids[len(self.ids):] for k, ids in enumerate(prompts)}
        for count in range(settings["max_new_tokens"]):
            logits = row.read(tokens)                               # (those that go on, vocabulary)
            if count < least:
                logits[:, ends] = float("-inf")
            chosen = dict(zip(tokens, logits.argmax(dim=-1).tolist(), strict=True))
            for k, token in chosen.items():
                answers[k].append(token)
            tokens = {k: [token] for k, token in chosen.items() if token not in ends}
            if not tokens:
                break
        self._keep_beginning()
        return [torch.tensor(each) for each in answers]

    def _hold(self, ids: list[int]) -> None:
        """Make the cache hold this beginning of a prompt and, if that has to be read, no more.

        If the next step is interrupted, `ids` says what of the cache is still true.
        """
        shared = shared_beginning(self.ids, ids)
        if self.model.config.image_token_id in ids[shared:]:
            self._read(torch.tensor([ids], device=self.model.device))
            shared = len(ids)
        self.ids = ids[:shared]
        self._keep_beginning()

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


class SharedRow:
    """Several prompts after a beginning that a cache holds: in one row, and apart from each other.

    Their tokens are added to the cache as they come. The mask shows each place the beginning and
    the earlier places of its own prompt; positions count as if its prompt were alone.
    """

    def __init__(self, model: MultiImageVLM, cache: DynamicCache, prompts: int):
        self.model, self.cache, self.beginning = model, cache, cache.get_seq_length()
        self.owners: list[int] = []                         # of each place after the beginning
        self.lengths = [self.beginning] * prompts

    def read(self, tokens: dict[int, list[int]]) -> Tensor:
        """What comes after each prompt's new tokens: logits (prompts named, vocabulary)."""
        before, positions = len(self.owners), []
        for k, new in tokens.items():
            self.owners += [k] * len(new)
            positions += range(self.lengths[k], self.lengths[k] + len(new))
            self.lengths[k] += len(new)
        device = self.model.device
        input_ids = torch.tensor([[token for new in tokens.values() for token in new]],
                                 device=device)                         # (1, places)
        language_model = self.model.language_model
        embeds = language_model.get_input_embeddings()(input_ids)
        states = language_model.model(
            inputs_embeds=embeds, attention_mask=self._mask(before, embeds.dtype).to(device),
            position_ids=torch.tensor([positions], device=device), past_key_values=self.cache,
            use_cache=True).last_hidden_state[0]                        # (places, dim)
        last = torch.tensor([len(new) for new in tokens.values()]).cumsum(0) - 1
        return language_model.lm_head(states[last.to(device)])

    def _mask(self, before: int, dtype: torch.dtype) -> Tensor:
        """What the places from `before` on see, as numbers that are added to the attention's:
        (1, 1, places, beginning + all places)."""
        owners, order = torch.tensor(self.owners), torch.arange(len(self.owners))
        sees = (owners[before:, None] == owners) & (order[before:, None] >= order)
        sees = torch.nn.functional.pad(sees, (self.beginning, 0), value=True)
        hidden = torch.zeros(sees.shape, dtype=dtype).masked_fill(~sees, torch.finfo(dtype).min)
        return hidden[None, None]


def can_share_a_row(model: MultiImageVLM) -> bool:
    """Is a Llama asked, whose layers take a mask and positions as they are given, and is the
    largest logit all that its configuration for generating asks for?"""
    asked = {name for name, value in model.generation_config.to_diff_dict().items()
             if value is not None}
    config = model.language_model.config
    return (config.model_type == "llama" and asked <= PLAIN
            and config._attn_implementation in ("sdpa", "eager"))


def end_tokens(model: MultiImageVLM, settings: dict) -> list[int]:
    """The tokens that end an answer, none or several."""
    ends = settings.get("eos_token_id")
    ends = model.generation_config.eos_token_id if ends is None else ends
    return [] if ends is None else [ends] if isinstance(ends, int) else list(ends)


def shared_beginning(first: Sequence[int], second: Sequence[int]) -> int:
    """How many numbers two sequences have in common before they first differ."""
    for position, (one, other) in enumerate(zip(first, second, strict=False)):
        if one != other:
            return position
    return min(len(first), len(second))


def batched(items: Sequence, size: int) -> Iterator[Sequence]:
    """Neighbours in groups of at most `size`."""
    return (items[start:start + size] for start in range(0, len(items), size))
