"""The embedded models, trained from nothing: `python -m vlm_utils.base_model`.

The course starts from a model of single images, as the real one starts from a captioner. Its
vision encoder is pretrained first (`vision_pretraining.py`) and frozen; projector and language
model then learn captions and questions about one image. Everything comes from the embedded
training split; the weights go to data/tiny_vlm_base/, with their figures on the test split.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    ViTImageProcessorPil,
    ViTModel,
)

from vlm_utils import tasks, tiny_earth
from vlm_utils.architecture import MultiImageVLM
from vlm_utils.datasets import ImageTable, TaskDataset, build_recipes, load_image_table
from vlm_utils.processor import MultiImageProcessor, special_tokens
from vlm_utils.profiles import get_profile
from vlm_utils.tiny_earth import Scene
from vlm_utils.training import TrainingSettings, train
from vlm_utils.turning import turn_scene, turn_tensor
from vlm_utils.vision_pretraining import PATCH, SIDE, pretrain_encoder

VOCABULARY = 1024
MAX_LENGTH = 512
ENCODER_STEPS = 2500
SETTINGS = TrainingSettings(steps=7000, batch_size=64, learning_rate=2e-3, warmup_steps=200,
                            weight_decay=0.05)
MIXTURE = {"describe 1": 130_000, "ask 1": 220_000}


class PixelTable:
    """Normalised pixels of every image of a table, kept as bytes; what the encoder learns from.

    table[[3, 5]] is (2, 3, height, width), float32.
    """

    def __init__(self, table: ImageTable, processor: MultiImageProcessor):
        pictures = [np.asarray(table.image(row)) for row in range(len(table))]
        self.pixels = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).contiguous()
        settings = processor.image_processor
        self.mean = 255 * torch.tensor(settings.image_mean).view(3, 1, 1)
        self.std = 255 * torch.tensor(settings.image_std).view(3, 1, 1)

    def __getitem__(self, rows: list[int]) -> Tensor:
        return (self.pixels[rows].float() - self.mean) / self.std


class TurnedFeatures:
    """Features of every image in all eight orientations: a view from above has no up or down.

    Row i + turn * images is image i turned; `truth` has the scenes and captions to go with it.
    """

    key = "image_features"

    def __init__(self, pixels: PixelTable, scenes: list[Scene], model: MultiImageVLM):
        rows = range(len(scenes))
        self.features = torch.cat([
            model.encode_images(turn_tensor(pixels[list(rows[i:i + 256])], turn)).half()
            for turn in range(8) for i in range(0, len(scenes), 256)])  # (8 * images, patches, dim)
        scenes = [turn_scene(scene, turn) for turn in range(8) for scene in scenes]
        self.truth = tasks.Truth(scenes, [tiny_earth.captions(s) for s in scenes], [])

    def __getitem__(self, rows: list[int]) -> Tensor:
        return self.features[rows]


def make_tokenizer(texts: list[str], max_images: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer (as GPT-2's): any text of any language encodes and decodes."""
    from tokenizers import ByteLevelBPETokenizer
    bpe = ByteLevelBPETokenizer()
    bpe.train_from_iterator(texts, vocab_size=VOCABULARY - max_images - 1, min_frequency=2,
                            special_tokens=["<|endoftext|>", "<|pad|>"], show_progress=False)
    with tempfile.NamedTemporaryFile("w", suffix=".json", delete=False) as file:
        file.write(bpe.to_str())
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_file=file.name, eos_token="<|endoftext|>", pad_token="<|pad|>",
        additional_special_tokens=special_tokens(max_images), model_max_length=MAX_LENGTH,
        clean_up_tokenization_spaces=False)
    Path(file.name).unlink()
    return tokenizer


def join(encoder: ViTModel, processor: MultiImageProcessor, merge_factor: int) -> MultiImageVLM:
    """The pretrained encoder and a new 3-layer Llama, joined by a new projector."""
    tokenizer = processor.tokenizer
    config = LlamaConfig(
        hidden_size=128, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2,
        intermediate_size=256, vocab_size=len(tokenizer), tie_word_embeddings=True,
        max_position_embeddings=MAX_LENGTH, bos_token_id=tokenizer.eos_token_id,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
        initializer_range=0.06)
    return MultiImageVLM.from_parts(
        encoder, LlamaForCausalLM(config), image_token_id=processor.image_token_id,
        merge_factor=merge_factor, max_images=processor.max_images)


def course_texts(table: ImageTable) -> list[str]:
    """Text of every kind the course uses, for the tokenizer to learn its words from."""
    mixture = {"ask 1": 3000, "describe 1": 6000, "compare 2": 3000, "sequence 2-8": 3000,
               "select 3": 3000, "refer 3": 2000}
    recipes = build_recipes(table.truth, mixture, seed=7)
    recipes += [tasks.inventory(table.truth, row) for row in range(2000)]
    return [text for r in recipes for text in (r.prompt.replace(tasks.IMAGE_TOKEN, "") + "\n",
                                               r.answer)]


def score(model: MultiImageVLM, processor: MultiImageProcessor, table: ImageTable) -> dict:
    """Exact answers and caption facts on a table's single images, greedy decoding."""
    from vlm_utils.evaluation import predict
    questions = TaskDataset(table, build_recipes(table.truth, {"ask 1": 3000}, seed=1))
    answers = predict(model, processor, questions)
    descriptions = TaskDataset(table, [
        tasks.Recipe((row,), tasks.images_first(1, tasks.DESCRIBE_PROMPT), "", "describe")
        for row in range(min(len(table), 1000))])
    captions = predict(model, processor, descriptions)
    right = total = wrong = 0
    for recipe, text in zip(descriptions.recipes, captions["prediction"], strict=True):
        truth, said = tiny_earth.scene_facts(table.truth.scenes[recipe.rows[0]]), \
            tiny_earth.facts(text)
        right, total, wrong = right + len(truth & said), total + len(truth), \
            wrong + len(said - truth)
    return {"exact_answers": float((answers["prediction"] == answers["answer"]).mean()),
            "caption_facts_found": right / total,
            "caption_facts_true": right / (right + wrong),
            "questions": len(questions), "captions": len(descriptions)}


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the single-image base model.")
    parser.add_argument("--output", type=Path, default=tiny_earth.data_folder() / "tiny_vlm_base")
    parser.add_argument("--steps", type=int, default=SETTINGS.steps)
    parser.add_argument("--encoder-steps", type=int, default=ENCODER_STEPS)
    options = parser.parse_args()
    profile = get_profile("tiny")
    settings = TrainingSettings(**(vars(SETTINGS) | {"steps": options.steps}))
    started = time.perf_counter()
    table = load_image_table(profile, "train")
    tokenizer = make_tokenizer(course_texts(table), profile.max_images)
    picture = ViTImageProcessorPil(size={"height": SIDE, "width": SIDE})
    tokens = (SIDE // PATCH // profile.merge_factor) ** 2
    processor = MultiImageProcessor(tokenizer, picture, tokens, profile.max_images,
                                    max_length=MAX_LENGTH)
    pixels = PixelTable(table, processor)
    encoder = pretrain_encoder(pixels, table.truth.scenes, options.encoder_steps,
                               seed=settings.seed)
    torch.manual_seed(settings.seed)  # the language model is the same whatever went before
    model = join(encoder, processor, profile.merge_factor).freeze_vision_encoder()
    features = TurnedFeatures(pixels, table.truth.scenes, model)
    recipes = build_recipes(features.truth, MIXTURE, seed=0)
    recipes += [tasks.inventory(features.truth, row) for row in range(len(features.truth.scenes))]
    dataset = TaskDataset(table, recipes, features)
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters, {len(table):,} images, "
          f"{len(dataset):,} samples, {time.perf_counter() - started:.0f} s so far", flush=True)
    losses: list[float] = []

    def report(row: dict) -> None:
        losses.append(row["loss"])
        if row["step"] % 200 == 0:
            print(f"step {row['step']:5d}  loss {np.mean(losses[-200:]):.3f}  "
                  f"{row['seconds']:.0f} s", flush=True)

    train(model, dataset, processor, settings, on_step=report)
    trained = time.perf_counter() - started
    figures = score(model, processor, load_image_table(profile, "test"))
    figures |= {"split": "test", "encoder_steps": options.encoder_steps, "steps": settings.steps,
                "minutes": round(trained / 60, 1),
                "parameters": sum(p.numel() for p in model.parameters())}
    model.save_pretrained(options.output)
    processor.save_pretrained(options.output)
    (options.output / "figures.json").write_text(json.dumps(figures, indent=2) + "\n")
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
