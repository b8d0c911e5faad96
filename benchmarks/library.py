"""LLaVA of transformers, from the same backbones, as its user trains and runs it.

The vision tower is ViT, as ours: `LlavaConfig` accepts it. LLaVA cannot merge patches: every patch
of an image is a token. Training is what `transformers.Trainer` does by default: fused AdamW,
gradients clipped to 1, batches padded to their longest sample, and bfloat16 on a GPU.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import (
    LlamaForCausalLM,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerBase,
    ViTModel,
)

from vlm_utils.architecture import IGNORED
from vlm_utils.datasets import Sample


def make_llava(vision_encoder: ViTModel, language_model: LlamaForCausalLM,
               tokenizer: PreTrainedTokenizerBase) -> LlavaForConditionalGeneration:
    """LLaVA with the weights of two backbones, its vision tower frozen."""
    vision = vision_encoder.config
    config = LlavaConfig(
        vision_config=vision, text_config=language_model.config,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        image_seq_length=(vision.image_size // vision.patch_size) ** 2,
        vision_feature_layer=-1, vision_feature_select_strategy="default")
    model = LlavaForConditionalGeneration(config)
    model.model.vision_tower = vision_encoder.requires_grad_(False)
    model.model.language_model = language_model.model
    model.lm_head = language_model.lm_head
    model.generation_config = language_model.generation_config
    return model


def make_processor(tokenizer: PreTrainedTokenizerBase, image_processor,
                   patch_size: int) -> LlavaProcessor:
    """One class token is left out: `default` selects the patches only."""
    return LlavaProcessor(image_processor=image_processor, tokenizer=tokenizer,
                          patch_size=patch_size, num_additional_image_tokens=1,
                          vision_feature_select_strategy="default")


def collate(samples: Sequence[Sample], processor: LlavaProcessor) -> dict[str, Tensor]:
    """A training batch, padded to the longest sample; only answers are learnt."""
    tokenizer = processor.tokenizer
    endings = [sample.answer + tokenizer.eos_token for sample in samples]
    texts = [f"{sample.prompt}\n{end}" for sample, end in zip(samples, endings, strict=True)]
    images = [image for sample in samples for image in sample.images]
    batch = dict(processor(images=images, text=texts, padding=True, padding_side="right",
                           add_special_tokens=False, return_tensors="pt"))
    batch["labels"] = torch.full_like(batch["input_ids"], IGNORED)
    for i, end in enumerate(endings):
        stop = int(batch["attention_mask"][i].sum())
        start = stop - len(tokenizer(end, add_special_tokens=False)["input_ids"])
        batch["labels"][i, start:stop] = batch["input_ids"][i, start:stop]
    return batch


def make_optimizer(model: LlavaForConditionalGeneration,
                   learning_rate: float) -> torch.optim.AdamW:
    trained = [p for p in model.parameters() if p.requires_grad]
    return torch.optim.AdamW(trained, lr=learning_rate, fused=True)


def train_step(model: LlavaForConditionalGeneration, optimizer: torch.optim.Optimizer,
               samples: Sequence[Sample], processor: LlavaProcessor) -> float:
    """From PIL images to optimizer step; returns the loss."""
    batch = {name: values.to(model.device) for name, values in collate(samples, processor).items()}
    with torch.autocast("cuda", torch.bfloat16, enabled=model.device.type == "cuda"):
        loss = model(**batch, use_cache=False).loss
    loss.backward()
    torch.nn.utils.clip_grad_norm_([p for p in model.parameters() if p.requires_grad], 1.0)
    optimizer.step()
    optimizer.zero_grad()
    return loss.item()


def answer(model: LlavaForConditionalGeneration, sample: Sample, processor: LlavaProcessor,
           new_tokens: int) -> Tensor:
    """So many new tokens after the prompt of one sample, from PIL images."""
    batch = processor(images=sample.images, text=sample.prompt + "\n", add_special_tokens=False,
                      return_tensors="pt").to(model.device)
    return model.generate(**batch, do_sample=False, min_new_tokens=new_tokens,
                          max_new_tokens=new_tokens)
