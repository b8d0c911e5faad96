"""The embedded base model, trained from nothing: `python -m vlm_utils.making.base_model`.

The course starts from a model that describes images one by one, as the real one starts from a
captioner. Its vision encoder is pretrained first (`vision_pretraining.py`) and frozen; projector
and language model then learn captions and questions about one image, and interleaved text: two or
three images with their names, and what those that are named show. No answer depends on two images
together: nothing is compared, chosen or followed in time. Everything comes from the embedded
training split; the weights go to data/tiny_vlm_base/, with their figures on the test split.

Interleaved text is what makes pretrained models fit for several images (MM1, McKinzie et al. 2024;
VILA, Lin et al. 2024). Single images alone make a model to which an image's name means nothing, and
the lessons are too short to teach it.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    ViTImageProcessorPil,
    ViTModel,
)

from vlm_utils import tiny_earth
from vlm_utils.architecture import (
    IMAGE_TOKEN,
    MultiImageProcessor,
    MultiImageVLM,
    identifier,
    join_parts,
    special_tokens,
)
from vlm_utils.collate import collate
from vlm_utils.datasets import (
    DESCRIBE_PROMPT,
    ImageTable,
    Recipe,
    TaskDataset,
    add_orientations,
    build_recipes,
    images_first,
    load_image_table,
    most_images,
)
from vlm_utils.making.conditions import only_embedded
from vlm_utils.making.vision_pretraining import MERGE, PATCH, SIDE, pretrain_encoder
from vlm_utils.profiles import data_folder, get_profile
from vlm_utils.training import (
    PixelTable,
    TrainingSettings,
    encode_table,
    print_progress,
    start_run,
    train,
)

VOCABULARY = 1024
MAX_LENGTH = 512
ENCODER_STEPS = 3000
ORIENTATIONS = 2
# After 3,000 steps, and 1,500 of the encoder, 98.6% of the answers were exact. More steps are not
# measured yet.
SETTINGS = TrainingSettings(steps=5000, batch_size=64, learning_rate=3e-3, optimizer="muon")
MIXTURE = {"describe 1": 40_000, "ask 1": 80_000, "refer 1": 50_000, "inventory 1": 14_000,
           "each 2-3": 60_000, "cover 2-3": 20_000, "inventory 2-3": 30_000, "locate 1": 40_000}
GAP = 40  # positions


def make_tokenizer(texts: list[str], max_images: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer (as GPT-2's): any text of any language encodes and decodes.

    Each digit, bracket and comma is a token of its own, so that a number means the same wherever
    it stands: in a box, a date or the name of a file.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(r"[0-9\[\],]"), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False)])
    bpe.decoder = decoders.ByteLevel()
    bpe.train_from_iterator(texts, trainers.BpeTrainer(
        vocab_size=VOCABULARY - max_images - 1, min_frequency=2, show_progress=False,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        special_tokens=["<|endoftext|>", "<|pad|>"]))
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe, eos_token="<|endoftext|>", pad_token="<|pad|>",
        additional_special_tokens=special_tokens(max_images), model_max_length=MAX_LENGTH,
        clean_up_tokenization_spaces=False)


def join(encoder: ViTModel, processor: MultiImageProcessor) -> MultiImageVLM:
    """The pretrained encoder and a new 3-layer Llama, joined by a new projector."""
    tokenizer = processor.tokenizer
    config = LlamaConfig(
        hidden_size=128, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2,
        intermediate_size=256, vocab_size=len(tokenizer), tie_word_embeddings=True,
        max_position_embeddings=MAX_LENGTH, bos_token_id=tokenizer.eos_token_id,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
        initializer_range=0.06)
    return join_parts(
        encoder, LlamaForCausalLM(config), image_token_id=processor.image_token_id,
        merge_factor=MERGE, max_images=processor.max_images)


def course_texts(table: ImageTable) -> list[str]:
    """Text of every kind the course uses, for the tokenizer to learn its words from."""
    mixture = {"ask 1": 3000, "describe 1": 6000, "compare 2": 3000, "sequence 2-8": 3000,
               "select 3": 3000, "refer 3": 2000, "inventory 1": 2000, "each 3": 2000,
               "locate 1": 500, "locate_change 2": 500, "when 2-8": 2000}
    recipes = build_recipes(table.truth, mixture, seed=7)
    return [text for r in recipes for text in (r.prompt.replace(IMAGE_TOKEN, "") + "\n",
                                               r.answer)]


def score(model: MultiImageVLM, processor: MultiImageProcessor, table: ImageTable) -> dict:
    """Exact answers and caption facts on a table's single images, greedy decoding."""
    from vlm_utils.evaluation import predict
    questions = TaskDataset(table, build_recipes(table.truth, {"ask 1": 3000}, seed=1))
    answers = predict(model, processor, questions)
    descriptions = TaskDataset(table, [
        Recipe((row,), images_first(1, DESCRIBE_PROMPT), "", "describe")
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


def name_from_known(model: MultiImageVLM, processor: MultiImageProcessor, known: int) -> None:
    """Start the names of the images after `known` from the mean of the names before.

    No sample holds them yet. From random vectors, later training would first have to learn that
    they are names at all.
    """
    ids = processor.tokenizer.convert_tokens_to_ids(
        [identifier(k) for k in range(1, processor.max_images + 1)])
    rows = model.get_input_embeddings().weight.data
    rows[ids[known:]] = rows[ids[:known]].mean(dim=0)


def spreading_collate(processor: MultiImageProcessor) -> Callable[[list[dict]], dict]:
    """The course's collator; in half of the samples, image and text stand some positions apart, as
    if text or images stood between them (randomised positions, Ruoss et al. 2023).

    A model that has only ever met its image right in front of the question looks for it there.
    More images push it away.
    """
    names = [identifier(k + 1) for k in range(processor.max_images)]
    block = torch.tensor([processor.image_token_id,
                          *processor.tokenizer.convert_tokens_to_ids(names)])

    def spread(encoded: list[dict]) -> dict[str, Tensor]:
        batch = collate(encoded, processor.pad_token_id)
        return batch | {"position_ids": spread_positions(batch["input_ids"], block, GAP)}
    return spread


def spread_positions(input_ids: Tensor, block: Tensor, gap: int) -> Tensor:
    """Positions (batch, length) with up to `gap` left out before the images and behind them.

    Every second row is left as it is. block: the tokens of which images consist, the placeholder
    and the names; a name without an image beside it is a word of the question.
    """
    image = input_ids == block[0]
    reach = nn.functional.pad(image, (1, 1), value=False)      # one token more on either side
    together = torch.isin(input_ids, block) & (reach[:, :-2] | image | reach[:, 2:])
    edges = together ^ nn.functional.pad(together, (1, 0), value=False)[:, :-1]
    gaps = torch.randint(0, gap + 1, input_ids.shape)
    gaps[::2] = 0
    return torch.cumsum(1 + edges * gaps, dim=1) - 1


def train_language(model: MultiImageVLM, processor: MultiImageProcessor, table: ImageTable,
                   settings: TrainingSettings) -> None:
    """Teach projector and language model to describe images and to answer about each by name."""
    turned = add_orientations(table, ORIENTATIONS)
    turned.image_features = encode_table(turned, model, processor)
    dataset = TaskDataset(turned, build_recipes(turned.truth, MIXTURE, seed=0))
    run = start_run(model, processor, dataset, settings, spreading_collate(processor))
    train(run, on_step=print_progress(200))


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the base model.")
    parser.add_argument("--output", type=Path, default=data_folder() / "tiny_vlm_base")
    parser.add_argument("--encoder-steps", type=int, default=ENCODER_STEPS)
    parser.add_argument("--steps", type=int, default=SETTINGS.steps)
    options = parser.parse_args()
    only_embedded()
    profile = get_profile("tiny")
    started = time.perf_counter()
    table = load_image_table(profile, "train")
    tokenizer = make_tokenizer(course_texts(table), profile.max_images)
    picture = ViTImageProcessorPil(size={"height": SIDE, "width": SIDE})
    processor = MultiImageProcessor(tokenizer, picture, (SIDE // PATCH // MERGE) ** 2,
                                    profile.max_images, max_length=MAX_LENGTH)
    encoder = pretrain_encoder(PixelTable(table, processor), table.truth.scenes,
                               options.encoder_steps, seed=SETTINGS.seed)
    print(f"encoder ready after {time.perf_counter() - started:.0f} s", flush=True)
    torch.manual_seed(SETTINGS.seed)  # the language model is the same whatever went before
    model = join(encoder, processor).freeze_vision_encoder()
    train_language(model, processor, table, replace(SETTINGS, steps=options.steps))
    name_from_known(model, processor, most_images(MIXTURE, "each"))
    minutes = (time.perf_counter() - started) / 60
    figures = score(model, processor, load_image_table(profile, "test"))
    figures |= {"split": "test", "encoder_steps": options.encoder_steps,
                "steps": options.steps,
                "minutes": round(minutes, 1),
                "parameters": sum(p.numel() for p in model.parameters())}
    model.save_pretrained(options.output)
    processor.save_pretrained(options.output)
    (options.output / "figures.json").write_text(json.dumps(figures, indent=2) + "\n")
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
