"""Generation: one answer about three images, and many answers at once, in seconds.

    python benchmarks/generation.py --scale real --device cpu

All variants stand in one process and alternate. Every answer is given its full number of tokens:
with random weights, no variant may stop early.
"""

from __future__ import annotations

import os
import tempfile

import library
import naive
import torch
from common import (
    NUM_IMAGES,
    SCALES,
    Scale,
    alternate,
    arguments_of,
    as_samples,
    as_table,
    make_backbones,
    make_image_processor,
    make_ours,
    make_samples,
    make_tokenizer,
    medians,
    plot_path,
    pool_patches,
    report,
    say,
)
from torch import Tensor

from vlm_utils.answering import make_prompt_batch
from vlm_utils.architecture import MultiImageProcessor, MultiImageVLM
from vlm_utils.datasets import Sample, TaskDataset
from vlm_utils.evaluation import predict
from vlm_utils.plots import BLUE, GREY, ORANGE, new_figure
from vlm_utils.training import encode_table

ONE_BY_ONE = 4  # how many answers stand for "one at a time"


class Naive:
    """The naive model: the images of an answer once, the whole sequence for each token."""

    def __init__(self, scale: Scale, device: str, seed: int):
        self.tokenizer, self.image_processor = make_tokenizer(), make_image_processor(scale)
        backbones = make_backbones(scale, self.tokenizer, seed)
        self.model = naive.NaiveVLM(*backbones).to(device).eval()
        self.device = device

    def answer(self, sample: Sample, new_tokens: int) -> list[int]:
        pixels = naive.load_pixels(sample.images, self.image_processor)
        prompt, _ = naive.encode_text(sample, self.tokenizer)
        return self.model.generate(pixels.unsqueeze(0).to(self.device),
                                   torch.tensor([prompt], device=self.device), new_tokens)


class Library:
    """LLaVA: every patch a token, a cache of keys and values."""

    def __init__(self, scale: Scale, device: str, seed: int):
        tokenizer = make_tokenizer()
        self.processor = library.make_processor(
            tokenizer, make_image_processor(scale), scale.vision["patch_size"])
        backbones = make_backbones(scale, tokenizer, seed)
        self.model = library.make_llava(*backbones, tokenizer).to(device).eval()

    def answer(self, sample: Sample, new_tokens: int) -> Tensor:
        return library.answer(self.model, sample, self.processor, new_tokens)


class Ours:
    """The course's model, with so many tokens an image."""

    def __init__(self, scale: Scale, device: str, seed: int, tokens: int):
        self.pooled_side, _ = scale.merging(tokens)
        model, self.processor = make_ours(scale, tokens, seed)
        self.model: MultiImageVLM = model.to(device).eval()

    def answers(self, samples: list[Sample], new_tokens: int) -> Tensor:
        """(samples, new_tokens), from PIL images, all samples in one batch."""
        batch = make_prompt_batch(self.model, self.processor, samples)
        if self.pooled_side is not None:
            features = self.model.encode_images(batch.pop("pixel_values"))
            batch["image_features"] = pool_patches(features, self.pooled_side)
        return self.model.generate(**batch, **_exactly(new_tokens, self.processor))

    def answer(self, sample: Sample, new_tokens: int) -> Tensor:
        return self.answers([sample], new_tokens)

    def predict(self, dataset: TaskDataset, batch_size: int, new_tokens: int) -> None:
        """As lesson 05 evaluates: from features that were encoded before."""
        options = _exactly(new_tokens, self.processor)
        del options["pad_token_id"]                 # predict gives it itself
        predict(self.model, self.processor, dataset, batch_size, **options)


def _exactly(new_tokens: int, processor: MultiImageProcessor) -> dict:
    return {"do_sample": False, "max_new_tokens": new_tokens, "min_new_tokens": new_tokens,
            "pad_token_id": processor.pad_token_id}


def main() -> None:
    arguments = arguments_of(
        __doc__.splitlines()[0],
        rounds=(3, "how often each is measured"), new_tokens=(40, "tokens of an answer"),
        batch=(16, "answers in a batch"))
    scale, device, tokens = SCALES[arguments.scale], arguments.device, arguments.new_tokens
    plot = plot_path("generation", scale.name, device)
    _, default, few = (merge[0] for merge in scale.merges)
    pictures, recipes = make_samples(
        scale, {f"select {NUM_IMAGES}": arguments.batch}, arguments.seed)
    samples = as_samples(pictures, recipes)
    say(f"{len(samples)} prompts of {NUM_IMAGES} images, {tokens} new tokens each")
    variants = {"naive": Naive(scale, device, arguments.seed),
                "library": Library(scale, device, arguments.seed),
                f"ours {default}": Ours(scale, device, arguments.seed, default),
                f"ours {few}": Ours(scale, device, arguments.seed, few)}
    ours = variants[f"ours {default}"]
    with tempfile.TemporaryDirectory() as folder:
        os.environ["VLM_OUTPUT"] = folder           # features are to be computed, not found
        many = TaskDataset(as_table(pictures), recipes)
        many.table.image_features = encode_table(many.table, ours.model, ours.processor)
        one_by_one = TaskDataset(many.table, recipes[:ONE_BY_ONE])
        actions = {name: lambda v=variant: v.answer(samples[0], tokens)
                   for name, variant in variants.items()}
        actions |= {
            "one by one, encoded": lambda: ours.predict(one_by_one, 1, tokens),
            "batch, encoded": lambda: ours.predict(many, arguments.batch, tokens),
            "batch, from pictures": lambda: ours.answers(samples, tokens)}
        say("warming up")
        for variant in variants.values():
            variant.answer(samples[0], 2)
        ours.predict(many, arguments.batch, 2)
        seconds = alternate(actions, arguments.rounds, device)
    _report(arguments, seconds, plot)


def _report(arguments, seconds: dict[str, list[float]], plot) -> None:
    _, default, few = (merge[0] for merge in SCALES[arguments.scale].merges)
    median, ours = medians(seconds), f"ours {default}"
    per_second = {"one by one, encoded": ONE_BY_ONE / median["one by one, encoded"],
                  "batch, encoded": arguments.batch / median["batch, encoded"],
                  "one by one, from pictures": 1 / median[ours],
                  "batch, from pictures": arguments.batch / median["batch, from pictures"]}
    ratios = {
        f"one_answer_{default}_tokens_over_naive": median["naive"] / median[ours],
        f"one_answer_{few}_tokens_over_naive": median["naive"] / median[f"ours {few}"],
        f"one_answer_{default}_tokens_over_library": median["library"] / median[ours],
        "batch_over_one_by_one_encoded":
            per_second["batch, encoded"] / per_second["one by one, encoded"],
        "batch_over_one_by_one_from_pictures":
            per_second["batch, from pictures"] / per_second["one by one, from pictures"]}
    _draw(median, per_second, arguments).savefig(plot, dpi=110)
    report("generation", arguments, ratios, plot, seconds=seconds, median_seconds=median,
           answers_per_second=per_second)


def _draw(median: dict[str, float], per_second: dict[str, float], arguments):
    """Seconds of one answer on the left, answers a second on the right."""
    figure = new_figure(10, 2.8)
    left, right = figure.subplots(1, 2)
    one = {name: value for name, value in median.items() if name.split()[0] in
           ("naive", "library", "ours")}
    colours = [{"naive": GREY, "library": ORANGE}.get(name, BLUE) for name in one]
    panels = ((left, one, f"seconds for one answer of {arguments.new_tokens} tokens", colours),
              (right, per_second, f"answers a second, ours, batch of {arguments.batch}", BLUE))
    for axis, values, label, colour in panels:
        bars = axis.barh(list(values), list(values.values()), color=colour)
        axis.bar_label(bars, fmt="{:,.4g}", padding=3, fontsize=8)
        axis.set_xlabel(label)
        axis.margins(x=0.2)
        axis.invert_yaxis()
        axis.spines[["top", "right"]].set_visible(False)
    return figure


if __name__ == "__main__":
    main()
