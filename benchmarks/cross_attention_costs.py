"""Images in the sequence or beside it: what does an answer cost, and many answers about the same?

    python benchmarks/cross_attention_costs.py --scale real     ViT-B/16 and SmolLM-135M, random
    python benchmarks/cross_attention_costs.py --scale real --only asking

answers    for 1 to 32 images in a prompt: tokens of the row, seconds to the first token and for
           each of the 39 after it, and the bytes of all keys and values that are kept meanwhile
batches    the same for several prompts at once, each with 16 images of its own
asking     16 questions about the same 8 images, asked one by one and with `ask`, the images encoded
           in each case

The images of the first two are encoded beforehand: that costs the same in both designs.

in sequence       every image's tokens in the prompt, as in lessons 01 to 05
beside            the same number of states of an image, attended to from every third layer
beside, few       16 latents of an image instead, made by a resampler

Random weights: this measures cost, no answer means anything. The last line is JSON, which --output
also writes to a file. If the file is there already, the parts that are not measured now are kept.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from ablations import parse_comparisons
from common import (
    SCALES,
    Scale,
    add_output,
    machine,
    make_ours,
    same_for_everyone,
    say,
    synchronize,
)
from PIL import Image
from torch import Tensor
from transformers import DynamicCache

from vlm_utils.answering import answer_sample
from vlm_utils.architecture import IMAGE_TOKEN
from vlm_utils.cross_attention import CrossAttentionVLM, add_cross_attention, ask
from vlm_utils.datasets import Sample

PARTS = ("answers", "batches", "asking")
COUNTS = (1, 2, 4, 8, 16, 32)
BATCHES, BATCH_IMAGES = (1, 2, 4, 8), 16
NEW_TOKENS, ASKED_TOKENS = 40, 8
QUESTION = "Which image shows: grassland seen from above, with a town in the top left?"
QUESTIONS = [f"{what} is in image <image_{k}>?" for k in range(1, 9) for what in ("What", "Who")]


def make_designs(scale: Scale, seed: int) -> dict:
    """Model and processor of each design, of the same backbones."""
    tokens = scale.merges[1][0]
    model, processor = make_ours(scale, tokens, seed, max_images=max(COUNTS))
    model.eval()
    layers = range(2, model.config.text_config.num_hidden_layers, 3) \
        if model.config.text_config.num_hidden_layers > 3 else None
    few = 16 if tokens > 16 else 4
    return {"in sequence": (model, processor),
            "beside": add_cross_attention(model, processor, layers),
            "beside, few": add_cross_attention(model, processor, layers, latents=few)}


def prompt_batch(model, processor, count: int, features: Tensor,
                 prompts: int = 1) -> dict[str, Tensor]:
    """So many prompts, each with so many images."""
    ids = processor.encode_prompt(IMAGE_TOKEN * count + QUESTION, count)
    return {"input_ids": torch.tensor([ids] * prompts, device=model.device),
            "image_features": features[:count].repeat(prompts, 1, 1)}


@torch.inference_mode()
def answer(model, batch: dict[str, Tensor], new_tokens: int) -> tuple[Tensor, int]:
    """Greedy new tokens, end tokens ignored; and the bytes of keys and values at the end."""
    settings = {"do_sample": False, "max_new_tokens": new_tokens, "min_new_tokens": new_tokens,
                "return_dict_in_generate": True}
    beside = 0
    if isinstance(model, CrossAttentionVLM):
        seen = model.look(**batch)
        beside = seen["image_keys_values"].nbytes
        found = model.generate(batch["input_ids"], **seen, **settings)
    else:
        found = model.generate(**batch, **settings)
    return found.sequences, beside + cache_bytes(found.past_key_values)


def cache_bytes(cache: DynamicCache) -> int:
    return sum(part.nbytes for layer in cache.layers for part in (layer.keys, layer.values))


@dataclass(frozen=True)
class Timer:
    """Seconds of an action: those that pass, or with time.process_time those of the processor."""

    device: str
    rounds: int = 1
    clock: Callable[[], float] = time.perf_counter

    def once(self, action: Callable[[], object]) -> tuple[float, object]:
        """Its seconds and its result."""
        synchronize(self.device)
        started = self.clock()
        result = action()
        synchronize(self.device)
        return self.clock() - started, result

    def median(self, action: Callable[[], object]) -> float:
        return statistics.median(self.once(action)[0] for _ in range(self.rounds))


def measure_answers(designs: dict, timer: Timer, seed: int) -> list[dict]:
    """Tokens, seconds and bytes of each design and number of images."""
    features = random_features(designs, seed)
    return [measure_answer(name, designs, timer, features, count)
            for count in COUNTS for name in designs]


def measure_batches(designs: dict, timer: Timer, seed: int) -> list[dict]:
    """The same of several prompts at once."""
    features = random_features(designs, seed)
    return [measure_answer(name, designs, timer, features, BATCH_IMAGES, prompts)
            for prompts in BATCHES for name in designs]


def random_features(designs: dict, seed: int) -> Tensor:
    """Of as many images as any prompt holds: (images, patches, vision_dim)."""
    model = designs["in sequence"][0]
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(
        max(COUNTS), model.config.patches_per_image, model.config.vision_config.hidden_size,
        generator=generator).to(model.device)


def measure_answer(name: str, designs: dict, timer: Timer, features: Tensor,
                   count: int, prompts: int = 1) -> dict:
    """Tokens of a row, seconds and bytes of one design, number of images and of prompts."""
    model, processor = designs[name]
    batch = prompt_batch(model, processor, count, features, prompts)
    kept = answer(model, batch, 2)[1]
    first = timer.median(lambda: answer(model, batch, 1))
    whole = timer.median(lambda: answer(model, batch, NEW_TOKENS))
    each = (whole - first) / (NEW_TOKENS - 1)
    say(f"{count:2} images, {prompts} at once, {name}: {first:.3f} s to the first token, "
        f"{each:.4f} s for each after it, {kept / 1e6:.1f} MB")
    return {"design": name, "images": count, "prompts": prompts,
            "tokens": batch["input_ids"].shape[1], "first": first, "each": each, "whole": whole,
            "bytes": kept}


def measure_asking(designs: dict, scale: Scale, timer: Timer, seed: int) -> list[dict]:
    """16 questions about 8 images: seconds one by one and with `ask`, and are answers equal?"""
    generator = torch.Generator().manual_seed(seed)
    side = scale.image_size
    images = [Image.fromarray(torch.randint(
        0, 256, (side, side, 3), generator=generator, dtype=torch.uint8).numpy())
        for _ in range(8)]
    rows = []
    for name, (model, processor) in designs.items():
        samples = [Sample(images, IMAGE_TOKEN * 8 + text, None, "q") for text in QUESTIONS]
        one_by_one, alone = timer.once(partial(answer_each, model, processor, samples))
        seconds, together = timer.once(
            partial(ask, model, processor, images, QUESTIONS, ASKED_TOKENS))
        rows.append({"design": name, "questions": len(QUESTIONS), "images": 8,
                     "one by one": one_by_one, "ask": seconds, "equal": alone == together})
        say(f"{name}: {one_by_one:.1f} s one by one, {seconds:.1f} s with ask, "
            f"answers equal: {alone == together}")
    return rows


def answer_each(model, processor, samples: list[Sample]) -> list[str]:
    return [answer_sample(model, processor, sample, ASKED_TOKENS) for sample in samples]


def main() -> None:
    options = parse_options()
    same_for_everyone()
    scale = SCALES[options.scale]
    designs = make_designs(scale, options.seed)
    for model, _ in designs.values():
        model.to(options.device)
    report = {"benchmark": "cross_attention_costs", "scale": scale.name, "new_tokens": NEW_TOKENS,
              "machines": {}}
    if options.output and options.output.exists():
        report = kept_report(options.output, report)
    timer = Timer(options.device, options.rounds,
                  time.process_time if options.processor_time else time.perf_counter)
    measures = {"answers": partial(measure_answers, designs, timer, options.seed),
                "batches": partial(measure_batches, designs, timer, options.seed),
                "asking": partial(measure_asking, designs, scale, timer, options.seed)}
    for part in options.only:
        report[part] = measures[part]()
        report["machines"][part] = machine(options.device) | {
            "seconds of": "the processor" if options.processor_time else "the clock"}
    result = json.dumps(report)
    print(result)
    if options.output:
        options.output.write_text(result + "\n")


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", choices=SCALES, default="tiny", help="shapes of the models")
    parser.add_argument("--only", type=partial(parse_comparisons, known=PARTS), default=PARTS,
                        metavar="NAME,NAME", help=f"some of {', '.join(PARTS)}")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=3, help="of each; the median counts")
    add_output(parser)
    parser.add_argument("--processor-time", action="store_true",
                        help="count the processor's seconds, of all threads together: for a "
                             "machine that does other work meanwhile; on a CPU with one thread")
    options = parser.parse_args()
    if options.processor_time and (options.device != "cpu" or torch.get_num_threads() > 1):
        parser.error("--processor-time is for --device cpu and one thread (OMP_NUM_THREADS=1): "
                     "waiting threads would count, and a GPU's work would not")
    if options.rounds < 1:
        parser.error("--rounds is at least 1")
    return options


def kept_report(path: Path, new: dict) -> dict:
    """The report that a file holds. Raises ValueError if it is one of other shapes."""
    stored = json.loads(path.read_text())
    for name in ("benchmark", "scale", "new_tokens"):
        if stored.get(name) != new[name]:
            raise ValueError(f"{path} has {name} {stored.get(name)}, not {new[name]}: give "
                             "--output another file")
    return stored


if __name__ == "__main__":
    main()
