"""A cache of repositories as huggingface_hub lays it out, filled without a network."""

import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from small_models import TEXTS, plain_tokenizer, small_llama
from transformers import LlamaForCausalLM, ViTConfig, ViTForImageClassification


def into_hub_cache(cache: Path, repository) -> Path:
    """An empty snapshot folder of a repository at its revision, as huggingface_hub lays it out."""
    commit = repository.revision if len(repository.revision) == 40 else "0" * 40
    root = cache / f"{repository.repo_type}s--{repository.repo_id.replace('/', '--')}"
    (root / "refs").mkdir(parents=True)
    (root / "refs" / "main").write_text(commit)
    snapshot = root / "snapshots" / commit
    snapshot.mkdir(parents=True)
    return snapshot


def write_flickr(snapshot: Path, rows: dict[str, int]) -> None:
    """Parquet files of jxie/flickr8k's schema: image and caption_0 ... caption_4."""
    from datasets import Dataset, Features, Value
    from datasets import Image as ImageFeature
    (snapshot / "data").mkdir()
    features = Features({"image": ImageFeature()} | {
        f"caption_{i}": Value("string") for i in range(5)})
    for number, (split, count) in enumerate(rows.items()):
        rng = np.random.default_rng(number)
        images = [Image.fromarray(rng.integers(0, 256, (40, 50, 3)).astype(np.uint8))
                  for _ in range(count)]
        columns = {f"caption_{i}": [f"A {split} dog {row} runs , wording {i} ."
                                    for row in range(count)] for i in range(5)}
        Dataset.from_dict({"image": images} | columns, features=features).to_parquet(
            snapshot / "data" / f"{split}-00000-of-00001.parquet")


def write_parts(cache: Path, profile, vision: ViTForImageClassification,
                language: LlamaForCausalLM, tokenizer) -> None:
    """A classifier and a language model in the cache, as the profile's repositories hold them."""
    folder = into_hub_cache(cache, profile.vision_encoder)
    vision.save_pretrained(folder)
    size = {"height": vision.config.image_size, "width": vision.config.image_size}
    (folder / "preprocessor_config.json").write_text(json.dumps({
        "do_normalize": True, "do_resize": True, "do_rescale": True, "size": size,
        "image_mean": [0.5] * 3, "image_std": [0.5] * 3, "resample": 2,
        "image_processor_type": "ViTImageProcessor"}))
    folder = into_hub_cache(cache, profile.language_model)
    language.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def write_miniature(cache: Path, profile, rows: dict[str, int]) -> None:
    """A whole hub for the full profile: its architectures and the geometry of its tokens (224 x 224
    pixels, 196 patches, 49 tokens an image), few weights, and pictures of the data set's schema."""
    torch.manual_seed(0)
    words = [f"A {split} dog {row} runs , wording {i} ." for split in rows for row in range(30)
             for i in range(5)]
    tokenizer = plain_tokenizer([*TEXTS, *words, "Which image shows: a dog?"] * 2, 500)
    vision = ViTForImageClassification(ViTConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64))
    language = small_llama(tokenizer, hidden_size=48, num_hidden_layers=2, num_attention_heads=3,
                           intermediate_size=96, pad_token_id=None, max_position_embeddings=2048)
    write_parts(cache, profile, vision, language, tokenizer)
    write_flickr(into_hub_cache(cache, profile.dataset), rows)
