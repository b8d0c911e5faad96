"""What the benchmarks share: shapes, samples made of pictures, the machine, reports and plots."""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
import transformers
from PIL import Image
from torch import Tensor
from torch.nn import functional
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerBase,
    ViTConfig,
    ViTImageProcessorPil,
    ViTModel,
)

from vlm_utils.architecture import (
    MultiImageProcessor,
    MultiImageVLM,
    add_special_tokens,
    join_parts,
)
from vlm_utils.datasets import ImageTable, Recipe, Sample, Truth, build_recipes, load_image_table
from vlm_utils.making.conditions import only_embedded
from vlm_utils.profiles import data_folder, get_profile, output_folder

NUM_IMAGES = 3  # the most images of a sample in training.py and generation.py


@dataclass(frozen=True)
class Scale:
    """Shapes of both backbones, and how ours brings the patches of an image down to few tokens.

    merges: (tokens per image, side to which the patches are averaged first or None, merge factor),
    from every patch a token to the fewest tokens. patch tokens, default tokens, few tokens.
    """

    name: str
    vision: dict
    text: dict
    merges: tuple[tuple[int, int | None, int], ...]

    @property
    def image_size(self) -> int:
        return self.vision["image_size"]

    def merging(self, tokens: int) -> tuple[int | None, int]:
        """Side to average the patches to, or None, and merge factor, for so many tokens."""
        return next((side, factor) for count, side, factor in self.merges if count == tokens)


SCALES = {
    "tiny": Scale(
        "tiny",
        vision={"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
                "intermediate_size": 64, "image_size": 48, "patch_size": 8},
        text={"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
              "num_key_value_heads": 1, "intermediate_size": 64, "vocab_size": 2048},
        merges=((36, None, 1), (9, None, 2), (4, 4, 2))),
    # ViT-B/16 and SmolLM-135M. 14 x 14 patches do not divide into 16 squares: for 16 tokens they
    # are averaged to 8 x 8 first, and then merged as ever.
    "real": Scale(
        "real",
        vision={"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12,
                "intermediate_size": 3072, "image_size": 224, "patch_size": 16},
        text={"hidden_size": 576, "num_hidden_layers": 30, "num_attention_heads": 9,
              "num_key_value_heads": 3, "intermediate_size": 1536, "vocab_size": 49152},
        merges=((196, None, 1), (49, None, 2), (16, 8, 2))),
}


# --- models and samples ------------------------------------------------------------------------

def make_tokenizer(max_images: int = 8) -> PreTrainedTokenizerBase:
    """The course's tokenizer; with real shapes most of the vocabulary is never used."""
    tokenizer = MultiImageProcessor.from_pretrained(data_folder() / "tiny_vlm_base").tokenizer
    add_special_tokens(tokenizer, max_images)
    return tokenizer


def make_backbones(scale: Scale, tokenizer: PreTrainedTokenizerBase,
                   seed: int) -> tuple[ViTModel, LlamaForCausalLM]:
    """Both backbones with random weights, the same ones for the same seed."""
    torch.manual_seed(seed)
    vision_encoder = ViTModel(ViTConfig(**scale.vision), add_pooling_layer=False)
    language_model = LlamaForCausalLM(LlamaConfig(
        **scale.text, tie_word_embeddings=True, max_position_embeddings=2048,
        bos_token_id=tokenizer.eos_token_id, eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id))
    return vision_encoder, language_model


def make_image_processor(scale: Scale) -> ViTImageProcessorPil:
    return ViTImageProcessorPil(size={"height": scale.image_size, "width": scale.image_size})


def make_ours(scale: Scale, tokens: int, seed: int,
              max_images: int = 8) -> tuple[MultiImageVLM, MultiImageProcessor]:
    """The course's model with so many tokens an image, and its processor."""
    tokenizer = make_tokenizer(max_images)
    processor = MultiImageProcessor(
        tokenizer, make_image_processor(scale), tokens, max_images, max_length=2048)
    vision_encoder, language_model = make_backbones(scale, tokenizer, seed)
    model = join_parts(
        vision_encoder, language_model, merge_factor=scale.merging(tokens)[1],
        max_images=max_images, image_token_id=processor.image_token_id)
    return model.freeze_vision_encoder(), processor


def pool_patches(features: Tensor, side: int | None) -> Tensor:
    """(num_images, patches, dim) -> (num_images, side * side, dim), by averaging neighbours."""
    if side is None:
        return features
    count, patches, dim = features.shape
    old = round(patches**0.5)
    grid = features.transpose(1, 2).reshape(count, dim, old, old)
    return functional.adaptive_avg_pool2d(grid, side).flatten(2).transpose(1, 2)


class PooledFeatures:
    """The rows of a feature table with fewer patches: averaged once, before training."""

    def __init__(self, features, side: int):
        whole = features[list(range(len(features)))]
        self.features = pool_patches(whole.float(), side).to(whole.dtype)

    def __len__(self) -> int:
        return len(self.features)

    def __getitem__(self, rows: list[int]) -> Tensor:
        return self.features[rows]                                   # (rows, side * side, dim)


def make_samples(scale: Scale, mixture: dict[str, int],
                 seed: int) -> tuple[list[Image.Image], list[Recipe]]:
    """TinyEarth samples as lesson 02 makes them, their tiles enlarged to the encoder's size.

    Returns the pictures that the samples use, each once, and recipes whose rows name them.
    """
    table = load_image_table(get_profile("tiny"), "train")
    recipes = build_recipes(table.truth, mixture, seed)
    rows = sorted({row for recipe in recipes for row in recipe.rows})
    new = {row: i for i, row in enumerate(rows)}
    size = scale.image_size, scale.image_size
    pictures = [table.image(row).resize(size, Image.Resampling.BILINEAR) for row in rows]
    return pictures, [replace(r, rows=tuple(new[row] for row in r.rows)) for r in recipes]


def as_samples(pictures: list[Image.Image], recipes: list[Recipe]) -> list[Sample]:
    return [Sample([pictures[row] for row in r.rows], r.prompt, r.answer, r.task)
            for r in recipes]


def as_table(pictures: list[Image.Image]) -> ImageTable:
    """Pictures as an image table; of their truth, only the recipes are needed."""
    from datasets import Dataset, Features
    from datasets import Image as ImageFeature
    dataset = Dataset.from_dict({"image": pictures}, features=Features({"image": ImageFeature()}))
    count = len(pictures)
    return ImageTable("pictures", dataset, Truth([None] * count, [[]] * count, []))


# --- measuring ---------------------------------------------------------------------------------

def synchronize(device: str) -> None:
    """Wait for what a GPU still has to do: its work is only queued when a call returns."""
    if device == "cuda":
        torch.cuda.synchronize()


def seconds_of(action: Callable[[], object], device: str) -> float:
    synchronize(device)
    started = time.perf_counter()
    action()
    synchronize(device)
    return time.perf_counter() - started


def alternate(actions: dict[str, Callable[[], object]], rounds: int,
              device: str) -> dict[str, list[float]]:
    """Seconds of every action in every round: what slows the machine down slows all of them."""
    seconds: dict[str, list[float]] = {name: [] for name in actions}
    for number in range(1, rounds + 1):
        for name, action in actions.items():
            seconds[name].append(seconds_of(action, device))
            say(f"round {number} of {rounds}: {name} {seconds[name][-1]:.3f} s")
    return seconds


def medians(values: dict[str, list[float]]) -> dict[str, float]:
    return {name: statistics.median(each) for name, each in values.items()}


def matmul_speed(device: str, side: int = 2048) -> float:
    """TFLOP/s of a large matrix product, the most that a model could reach here.

    float32 on a CPU, bfloat16 on a GPU, as the benchmarks compute.
    """
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    side = 4 * side if device == "cuda" else side
    a = torch.ones(side, side, dtype=dtype, device=device)
    a @ a
    best = min(seconds_of(lambda: a @ a, device) for _ in range(5))
    return 2 * side**3 / best / 1e12


# --- running and reporting ---------------------------------------------------------------------

def arguments_of(description: str, **options: tuple[object, str]) -> argparse.Namespace:
    """--scale, --device and --seed, and further whole numbers: name=(default, help)."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--scale", choices=SCALES, default="tiny", help="shapes of the models")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--seed", type=int, default=0)
    for name, (default, text) in options.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=default,
                            help=f"{text} (default: {default})")
    arguments = parser.parse_args()
    if arguments.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: torch finds no CUDA device")
    same_for_everyone()
    return arguments


def add_output(parser: argparse.ArgumentParser) -> None:
    """The option --output. A folder that is missing is named before anything is measured."""
    def file(text: str) -> Path:
        if not Path(text).parent.is_dir():
            raise argparse.ArgumentTypeError(f"there is no folder {Path(text).parent}")
        return Path(text)
    parser.add_argument("--output", type=file, help="a file for the JSON, besides the last line")


def same_for_everyone() -> None:
    """The embedded images and the tiny profile, whatever the environment says; no bars of datasets.

    Bars of trainings go to stderr.
    """
    only_embedded()
    os.environ["HF_DATASETS_DISABLE_PROGRESS_BARS"] = "1"


def say(text: str) -> None:
    """Progress, shown at once."""
    print(text, flush=True)


def machine(device: str) -> dict:
    """What the numbers were measured on, without the name of the machine."""
    found = {"processor": _processor_name(), "cores": len(os.sched_getaffinity(0))
             if hasattr(os, "sched_getaffinity") else os.cpu_count(),
             "threads": torch.get_num_threads(), "torch": torch.__version__,
             "transformers": transformers.__version__}
    return found | ({"gpu": torch.cuda.get_device_name()} if device == "cuda" else {})


def _processor_name() -> str:
    path = Path("/proc/cpuinfo")
    if path.is_file():
        for line in path.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def plot_path(*names: str) -> Path:
    """build/benchmarks/NAME_NAME.png; VLM_OUTPUT moves build/ elsewhere."""
    folder = output_folder() / "benchmarks"
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{'_'.join(names)}.png"


def report(name: str, arguments: argparse.Namespace, ratios: dict, plot: Path, **rest) -> None:
    """One line of JSON, the last that a benchmark prints."""
    line = {"benchmark": name, "settings": vars(arguments), "ratios": ratios, **rest,
            "shapes": asdict(SCALES[arguments.scale]), "plot": plot.name,
            "machine": machine(arguments.device)}
    say(json.dumps(rounded(line)))


def rounded(value):
    """Four digits are more than a measured time has."""
    if isinstance(value, float):
        return float(f"{value:.4g}")
    if isinstance(value, dict):
        return {key: rounded(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(each) for each in value]
    return value
