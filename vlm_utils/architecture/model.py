"""Lesson 01: the model. A frozen ViT, a projector and a small causal language model.

Every image goes through the same vision encoder. The projector turns its patch features into
vectors of the language model's embedding space, and these vectors replace the placeholder tokens
of the prompt. Where the placeholders stand is the processor's concern (`processor.py`): the model
knows nothing about layout.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor, nn
from transformers import AutoModel, AutoModelForCausalLM
from transformers.utils import ModelOutput

from vlm_utils.architecture.config import MultiImageVLMConfig
from vlm_utils.architecture.pretrained import PretrainedVLM

IGNORED = -100  # the label that the loss leaves out, as torch's cross entropy does


def merge_neighbours(features: Tensor, factor: int) -> Tensor:
    """Fold each factor x factor square of patches into one token (pixel shuffle, Shi et al. 2016).

    features: (num_images, height * width, dim), patches in row order, height == width.
    Returns (num_images, height * width / factor**2, dim * factor**2).
    Raises ValueError if the patches do not form a square whose side factor divides.
    """
    patches = features.shape[1]
    side = math.isqrt(patches)
    if side * side != patches or side % factor:
        raise ValueError(
            f"{patches} patches do not divide into squares of {factor} x {factor} patches")
    return rearrange(
        features, "n (h a w b) d -> n (h w) (a b d)", h=side // factor, a=factor, b=factor)


class Projector(nn.Module):
    """Two linear layers from the vision encoder's space to the language model's (LLaVA-1.5).

    The closing LayerNorm starts at the scale of the language model's own token embeddings, so
    that image tokens are neither silent nor deafening before training.
    """

    def __init__(self, vision_dim: int, text_dim: int, merge_factor: int):
        super().__init__()
        self.merge_factor = merge_factor
        self.layers = nn.Sequential(
            nn.Linear(vision_dim * merge_factor**2, text_dim),
            nn.GELU(),
            nn.Linear(text_dim, text_dim),
            nn.LayerNorm(text_dim),
        )

    def forward(self, features: Tensor) -> Tensor:
        """(num_images, patches, vision_dim) -> (num_images, tokens, text_dim)."""
        return self.layers(merge_neighbours(features, self.merge_factor))

    @torch.no_grad()
    def match_scale(self, embeddings: Tensor) -> None:
        """Set the size of image tokens to that of word embeddings `(vocabulary, text_dim)`."""
        self.layers[-1].weight.fill_(embeddings.float().std().item())


def merge_image_embeddings(token_embeddings: Tensor, image_embeddings: Tensor,
                           input_ids: Tensor, image_token_id: int) -> Tensor:
    """Put image embeddings where the placeholder tokens stand, in order (as LLaVA does).

    token_embeddings: (batch, length, dim); input_ids: (batch, length).
    image_embeddings: (num_images, tokens, dim), the images of all samples one after another.
    Returns (batch, length, dim). Raises ValueError if placeholders and images differ in number.
    """
    num_images, tokens, dim = image_embeddings.shape
    is_placeholder = input_ids == image_token_id                            # (batch, length)
    per_sample = is_placeholder.sum(dim=1)                                  # (batch,)
    if per_sample.sum() != num_images * tokens:
        raise ValueError(mismatch_message(per_sample.tolist(), num_images, tokens))
    return token_embeddings.masked_scatter(
        is_placeholder.unsqueeze(-1),                                       # (batch, length, 1)
        image_embeddings.to(token_embeddings.dtype).reshape(-1, dim))       # (images * tokens, dim)


@dataclass
class MultiImageVLMOutput(ModelOutput):
    """loss: scalar, with labels only. logits: (batch, length, vocabulary); in training with labels
    only (answer_tokens, vocabulary), the positions whose prediction the loss reads."""

    loss: Tensor | None = None
    logits: Tensor | None = None
    past_key_values: object | None = None


class MultiImageVLM(PretrainedVLM):
    """Vision encoder, projector and language model; images enter at placeholder tokens.

    A sample may hold any number of images: the model takes the images of a batch as one flat
    stack `pixel_values (num_images, 3, height, width)`, or, encoded beforehand,
    `image_features (num_images, patches, vision_dim)`.
    """

    def __init__(self, config: MultiImageVLMConfig):
        super().__init__(config)
        # Without its pooler: nothing reads it, so its weights would be dead weight in each file.
        self.vision_encoder = AutoModel.from_config(
            config.vision_config, add_pooling_layer=False, trust_remote_code=False)
        self.projector = Projector(config.vision_config.hidden_size,
                                   config.text_config.hidden_size, config.merge_factor)
        self.language_model = AutoModelForCausalLM.from_config(
            config.text_config, trust_remote_code=False)
        self.post_init()

    def encode_images(self, pixel_values: Tensor) -> Tensor:
        """(num_images, 3, height, width) -> patch features (num_images, patches, vision_dim)."""
        trains = torch.is_grad_enabled() and any(
            p.requires_grad for p in self.vision_encoder.parameters())
        with torch.set_grad_enabled(trains):
            states = self.vision_encoder(
                pixel_values=pixel_values.to(self.vision_encoder.dtype)).last_hidden_state
        return states[:, 1:]                                    # the class token is left out

    def encode_no_images(self) -> Tensor:
        """(0, patches, vision_dim): what stands for the images of a batch of texts alone.

        What trains on images then has gradients of zero. If they were missing, other processes,
        which average theirs with them, would wait forever.
        """
        vision, weight = self.config.vision_config, self.get_input_embeddings().weight
        if any(p.requires_grad for p in self.vision_encoder.parameters()):
            blank = weight.new_zeros(
                1, vision.num_channels, vision.image_size, vision.image_size)
            return self.encode_images(blank)[:0]
        return weight.new_zeros(0, self.config.patches_per_image, vision.hidden_size)

    def embed(self, input_ids: Tensor, pixel_values: Tensor | None = None,
              image_features: Tensor | None = None) -> Tensor:
        """Text and images as one sequence of embeddings (batch, length, text_dim)."""
        if pixel_values is not None and image_features is not None:
            raise ValueError("give pixel_values or image_features, not both")
        token_embeddings = self.get_input_embeddings()(input_ids)
        if pixel_values is not None:
            image_features = self.encode_images(pixel_values)
        if image_features is None:                              # text alone: a stack of no images
            image_features = self.encode_no_images()
        dtype = next(self.projector.parameters()).dtype
        image_embeddings = self.projector(image_features.to(dtype))
        return merge_image_embeddings(
            token_embeddings, image_embeddings, input_ids, self.config.image_token_id)

    def forward(self, input_ids: Tensor | None = None, attention_mask: Tensor | None = None,
                labels: Tensor | None = None, pixel_values: Tensor | None = None,
                image_features: Tensor | None = None, inputs_embeds: Tensor | None = None,
                num_items_in_batch: Tensor | float | None = None,
                loss_weights: Tensor | None = None, **kwargs) -> MultiImageVLMOutput:
        """Predict the next token at each position; with labels, the mean loss of the answers.

        input_ids, attention_mask, labels: (batch, length). num_items_in_batch, loss_weights: see
        answer_loss. In training with labels, only the logits of the answers are computed.
        """
        if inputs_embeds is None:
            inputs_embeds = self.embed(input_ids, pixel_values, image_features)
        outputs = self.language_model.model(
            inputs_embeds=inputs_embeds, attention_mask=attention_mask, **kwargs)
        states, head = outputs.last_hidden_state, self.language_model.lm_head
        if labels is None:
            return MultiImageVLMOutput(
                logits=head(states), past_key_values=outputs.get("past_key_values"))
        loss, logits = answer_loss(head, states, labels, loss_weights, num_items_in_batch)
        if not self.training:   # whoever evaluates lays them beside the labels, place by place
            logits = head(states)                                       # (batch, length, vocab)
        return MultiImageVLMOutput(loss=loss, logits=logits)

    @torch.no_grad()
    def generate(self, input_ids: Tensor, attention_mask: Tensor | None = None,
                 pixel_values: Tensor | None = None, image_features: Tensor | None = None,
                 **kwargs) -> Tensor:
        """Answers as token ids (batch, new_tokens); kwargs as the language model's generate.

        input_ids: (batch, length), padded on the LEFT, since new tokens are added on the right.
        """
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        if len(input_ids) > 1 and not attention_mask[:, -1].all():
            raise ValueError("generate needs prompts padded on the left: sample "
                             f"{int((attention_mask[:, -1] == 0).nonzero()[0])} ends with padding")
        return self.language_model.generate(
            inputs_embeds=self.embed(input_ids, pixel_values, image_features),
            attention_mask=attention_mask, **kwargs)


def answer_loss(head: nn.Module, states: Tensor, labels: Tensor,
                weights: Tensor | None = None,
                count: Tensor | float | None = None) -> tuple[Tensor, Tensor]:
    """The mean loss of the answer tokens, and their logits (answer_tokens, vocabulary).

    head: from states to logits. states: (batch, length, dim). labels: (batch, length), -100
    (IGNORED) where nothing is learnt. weights: (batch, length), what each label counts, else 1.
    count: divide the summed loss by this instead of by the sum of the weights here, so that
    accumulated gradients equal those of one large batch.
    """
    # Position t predicts token t + 1. This is the only place where labels are shifted.
    targets = labels[:, 1:]
    answered = targets != IGNORED                                       # (batch, length - 1)
    logits = head(states[:, :-1][answered])                             # (answer_tokens, vocab)
    losses = nn.functional.cross_entropy(logits.float(), targets[answered], reduction="none")
    weights = torch.ones_like(losses) if weights is None else weights[:, 1:][answered]
    return (losses * weights).sum() / (weights.sum() if count is None else count), logits


def count_parameters(model: nn.Module) -> dict[str, dict[str, int]]:
    """Parameters of each part of the model, all and trainable, tied weights counted once."""
    rows = {name: part for name, part in model.named_children()} | {"whole model": model}
    return {
        name: {"parameters": sum(p.numel() for p in part.parameters()),
               "trainable": sum(p.numel() for p in part.parameters() if p.requires_grad)}
        for name, part in rows.items()}


def mismatch_message(placeholders: list[int], num_images: int, tokens: int) -> str:
    """Name the first sample at which placeholders and images part."""
    found = f"the prompts hold {sum(placeholders)} placeholder tokens = {tokens} x " \
            f"{sum(placeholders) / tokens:g} images, but {num_images} images were given"
    seen = 0
    for sample, count in enumerate(placeholders):
        if count % tokens:
            return (f"sample {sample} holds {count} placeholder tokens, which is not a multiple of "
                    f"the {tokens} that each image takes; {found}")
        seen += count // tokens
        if seen > num_images:
            return (f"sample {sample} asks for {count // tokens} images and only "
                    f"{num_images - seen + count // tokens} are left for it; {found}")
    return f"after the last sample ({len(placeholders) - 1}) " \
           f"{num_images - seen} images are left over; {found}"
