"""The model as it is first written: right, readable, and slow. What the course's is measured by.

Every sample is padded to three images and its text to 128 tokens. All images stand before the
text, class token included, and the encoder runs for each of them at each step, one at a time. The
zero images are attended like any other; only the padding of the text is masked.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from PIL import Image
from torch import Tensor, nn
from transformers import LlamaForCausalLM, PreTrainedTokenizerBase, ViTModel

from vlm_utils.architecture import IGNORED
from vlm_utils.datasets import Sample

NUM_IMAGES = 3
TEXT_LENGTH = 128


class NaiveVLM(nn.Module):
    """A frozen vision encoder, a projector and a language model that learns."""

    def __init__(self, vision_encoder: ViTModel, language_model: LlamaForCausalLM):
        super().__init__()
        vision_dim = vision_encoder.config.hidden_size
        text_dim = language_model.config.hidden_size
        self.vision_encoder = vision_encoder.requires_grad_(False)
        self.projector = nn.Sequential(
            nn.Linear(vision_dim, text_dim), nn.GELU(), nn.Linear(text_dim, text_dim),
            nn.LayerNorm(text_dim))
        self.language_model = language_model

    def encode(self, image: Tensor) -> Tensor:
        """(3, height, width) -> (tokens, vision_dim), the class token first."""
        return self.vision_encoder(pixel_values=image.unsqueeze(0)).last_hidden_state[0]

    def embed_images(self, pixel_values: Tensor) -> Tensor:
        """(batch, images, 3, height, width) -> (batch, images * tokens, text_dim)."""
        rows = []
        for images in pixel_values:                             # one sample
            tokens = [self.projector(self.encode(image)) for image in images]
            rows.append(torch.cat(tokens))                      # (images * tokens, text_dim)
        return torch.stack(rows)

    def forward(self, pixel_values: Tensor, input_ids: Tensor, attention_mask: Tensor,
                labels: Tensor) -> Tensor:
        """The mean loss of the answers. input_ids, attention_mask, labels: (batch, length)."""
        images = self.embed_images(pixel_values)
        texts = self.language_model.get_input_embeddings()(input_ids)
        visible = torch.ones(images.shape[:2], dtype=torch.long, device=images.device)
        outputs = self.language_model(
            inputs_embeds=torch.cat([images, texts], dim=1),
            attention_mask=torch.cat([visible, attention_mask], dim=1),
            labels=torch.cat([torch.full_like(visible, IGNORED), labels], dim=1))
        return outputs.loss

    @torch.no_grad()
    def generate(self, pixel_values: Tensor, input_ids: Tensor, new_tokens: int) -> list[int]:
        """So many tokens, each the likeliest after the whole sequence, which is read again.

        pixel_values: (1, images, 3, height, width); input_ids: (1, length), without padding.
        """
        embed = self.language_model.get_input_embeddings()
        sequence = torch.cat([self.embed_images(pixel_values), embed(input_ids)], dim=1)
        answer = []
        for _ in range(new_tokens):
            logits = self.language_model(inputs_embeds=sequence, use_cache=False).logits
            token = logits[:, -1].argmax(dim=-1)                # (1,)
            answer.append(token.item())
            sequence = torch.cat([sequence, embed(token).unsqueeze(1)], dim=1)
        return answer


def load_pixels(images: Sequence[Image.Image], image_processor) -> Tensor:
    """PIL images -> (3, 3, height, width), zeros where an image is missing."""
    pixels = [image_processor(image, return_tensors="pt")["pixel_values"][0] for image in images]
    blank = torch.zeros_like(pixels[0])
    return torch.stack(pixels + [blank] * (NUM_IMAGES - len(pixels)))


def encode_text(sample: Sample, tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], list[int]]:
    """Token ids of the question, without its images, and of the answer with its end token."""
    prompt = sample.prompt.replace("<image>", "") + "\n"
    return (tokenizer(prompt, add_special_tokens=False)["input_ids"],
            tokenizer(sample.answer, add_special_tokens=False)["input_ids"]
            + [tokenizer.eos_token_id])


def collate(samples: Sequence[Sample], tokenizer: PreTrainedTokenizerBase,
            image_processor) -> dict[str, Tensor]:
    """A batch for NaiveVLM.forward. Raises ValueError where a text is too long."""
    shape = len(samples), TEXT_LENGTH
    batch = {"input_ids": torch.full(shape, tokenizer.pad_token_id),
             "attention_mask": torch.zeros(shape, dtype=torch.long),
             "labels": torch.full(shape, IGNORED)}
    for i, sample in enumerate(samples):
        prompt, answer = encode_text(sample, tokenizer)
        length = len(prompt) + len(answer)
        if length > TEXT_LENGTH:
            raise ValueError(f"the text of sample {i} is {length} tokens long: "
                             f"{TEXT_LENGTH} are the most")
        batch["input_ids"][i, :length] = torch.tensor(prompt + answer)
        batch["attention_mask"][i, :length] = 1
        batch["labels"][i, len(prompt):length] = torch.tensor(answer)
    batch["pixel_values"] = torch.stack([load_pixels(s.images, image_processor) for s in samples])
    return batch


def make_optimizer(model: NaiveVLM, learning_rate: float) -> torch.optim.AdamW:
    trained = [p for p in model.parameters() if p.requires_grad]
    return torch.optim.AdamW(trained, lr=learning_rate)


def train_step(model: NaiveVLM, optimizer: torch.optim.Optimizer, samples: Sequence[Sample],
               tokenizer: PreTrainedTokenizerBase, image_processor) -> float:
    """From PIL images to optimizer step; returns the loss."""
    device = next(model.parameters()).device
    batch = collate(samples, tokenizer, image_processor)
    loss = model(**{name: values.to(device) for name, values in batch.items()})
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    return loss.item()
