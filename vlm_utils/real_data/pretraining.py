"""A vision encoder learns a new domain from its captions alone, before it meets the language model.

The base model's own first stage once more (ViT-B/16 comes from ImageNet's classes), on what a
folder of one's own has: captions. If they are few, they are classes. Else they are many answers at
once: which of the frequent phrases does an image's caption hold (visual n-grams, Li et al. 2017)?
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from transformers import get_cosine_schedule_with_warmup

from vlm_utils.architecture import (
    MultiImageProcessor,
    MultiImageVLM,
    MultiImageVLMConfig,
    merge_neighbours,
)
from vlm_utils.datasets import ImageTable
from vlm_utils.plots import progress
from vlm_utils.tiny_earth.turning import turn_tensor
from vlm_utils.training import MuonAndAdamW, PixelTable, parameter_groups

MOST_CLASSES = 100      # more different captions are no classes
LONGEST_PHRASE, LEAST_SHARE, MOST_PHRASES = 5, 0.005, 400
WEIGHT_DECAY = 0.05


@dataclass(frozen=True)
class CaptionTargets:
    """What an encoder is to tell of each image.

    names: the classes or phrases. values: (images, names), 1 for what is true of the image.
    classes: exactly one of the names is true of an image.
    """

    names: tuple[str, ...]
    values: Tensor
    classes: bool


def caption_targets(captions: Sequence[Sequence[str]]) -> CaptionTargets:
    """Classes if an image has one caption of at most 100 different ones, else frequent phrases.

    A phrase is 1 to 5 words in a row; it is taken if it is in the captions of at least 0.5% of the
    images and not of more than half, the commonest first. Raises ValueError without captions.
    """
    if not captions or not all(captions):
        raise ValueError("an image has no caption to learn from: add captions to the images")
    single = [texts[0] for texts in captions]
    names = sorted(set(single))
    classes = len(names) <= MOST_CLASSES and all(len(texts) == 1 for texts in captions)
    said = [{text} for text in single] if classes else [phrases(texts) for texts in captions]
    if not classes:
        counts = Counter(phrase for each in said for phrase in each)
        most = len(captions) / 2
        names = [phrase for phrase, count in counts.most_common()
                 if LEAST_SHARE * len(captions) <= count <= most][:MOST_PHRASES]
    column = {name: i for i, name in enumerate(names)}
    values = torch.zeros(len(captions), len(names))
    for row, each in enumerate(said):
        values[row, [column[name] for name in each if name in column]] = 1
    return CaptionTargets(tuple(names), values, classes)


def phrases(texts: Sequence[str]) -> set[str]:
    """Every 1 to 5 words in a row of some captions, in small letters, punctuation left out."""
    found = set()
    for text in texts:
        words = "".join(c if c.isalnum() else " " for c in text.lower()).split()
        for length in range(1, LONGEST_PHRASE + 1):
            found |= {" ".join(words[i:i + length]) for i in range(len(words) - length + 1)}
    return found


@dataclass(frozen=True)
class Augmentation:
    """How a training image may differ from its tile.

    turned: in any of its eight orientations (see turned_copies for when that is true). shift: up
    to so many pixels. light: spread of brightness, contrast and the tint of each channel.
    """

    turned: bool = False
    shift: int = 8
    light: float = 0.05

    def __call__(self, pixels: Tensor, rng: torch.Generator) -> Tensor:
        """(batch, 3, side, side), normalised; returns as many."""
        if self.turned:
            pixels = turn_each(pixels, rng)
        if self.shift:
            pixels = shift_each(pixels, self.shift, rng)
        mean = pixels.mean((2, 3), keepdim=True)                            # (batch, 3, 1, 1)
        one = (len(pixels), 1, 1, 1)
        contrast, brightness = (1 + self.light * torch.randn(one, generator=rng) for _ in range(2))
        tint = self.light / 2 * torch.randn((len(pixels), 3, 1, 1), generator=rng)
        return (pixels - mean) * contrast + mean * brightness + tint


def turn_each(pixels: Tensor, rng: torch.Generator) -> Tensor:
    """Each image in one of its eight orientations."""
    chosen = torch.randint(0, 8, (len(pixels),), generator=rng)
    turned = torch.empty_like(pixels)
    for orientation in range(8):
        turned[chosen == orientation] = turn_tensor(pixels[chosen == orientation], orientation)
    return turned


def shift_each(pixels: Tensor, most: int, rng: torch.Generator) -> Tensor:
    """Each image moved by up to `most` pixels; what comes in at the border is its mirror image."""
    count, channels, height, width = pixels.shape
    wide = nn.functional.pad(pixels, [most] * 4, mode="reflect")
    corners = torch.randint(0, 2 * most + 1, (count, 2), generator=rng).tolist()
    return torch.stack([image[:, y:y + height, x:x + width]
                        for image, (y, x) in zip(wide, corners, strict=True)])


class TokenClassifier(nn.Module):
    """Reads every image token alone, as the language model finds them, and adds what they say.

    Noise between encoder and classifier makes the encoder state each answer loudly.
    """

    def __init__(self, config: MultiImageVLMConfig, names: int, noise: float = 0.5):
        super().__init__()
        self.merge_factor, self.noise = config.merge_factor, noise
        self.read = nn.Linear(config.merge_factor**2 * config.vision_config.hidden_size, names)

    def forward(self, features: Tensor) -> Tensor:
        """(batch, patches, dim) -> scores (batch, tokens, names)."""
        if self.training:
            features = features + self.noise * torch.randn_like(features)
        return self.read(merge_neighbours(features, self.merge_factor))


def caption_loss(scores: Tensor, values: Tensor, classes: bool,
                 smoothing: float = 0.1) -> Tensor:
    """The mean loss of scores (batch, tokens, names) against values (batch, names).

    Classes: every token must tell the class. Phrases: at least one token must, for what is at one
    place is told by the token of that place.
    """
    if classes:
        wanted = values * (1 - smoothing) + smoothing / values.shape[1]
        return nn.functional.cross_entropy(
            scores.flatten(0, 1), wanted.repeat_interleave(scores.shape[1], dim=0))
    loudest = scores.logsumexp(dim=1) - np.log(scores.shape[1])             # (batch, names)
    return nn.functional.binary_cross_entropy_with_logits(loudest, values) * 10


def pretrain_encoder(model: MultiImageVLM, processor: MultiImageProcessor, table: ImageTable,
                     steps: int, batch_size: int = 128, learning_rate: float = 3e-3,
                     augment: Augmentation | None = None, seed: int = 0,
                     on_step: Callable[[dict], None] | None = None) -> list[dict]:
    """Train what is not frozen of a model's vision encoder on the captions of a table.

    The classifier is thrown away, and the encoder is left in the model. augment: default:
    Augmentation(). on_step: called with each row of the history (step, loss), which is returned.
    Raises ValueError if the encoder is frozen, or for images without captions.
    """
    encoder = model.vision_encoder
    if not any(p.requires_grad for p in encoder.parameters()):
        raise ValueError("the vision encoder is frozen: unfreeze_encoder(model) or "
                         "grow_encoder(model) first")
    torch.manual_seed(seed)
    targets = caption_targets(table.truth.captions)
    classifier = TokenClassifier(model.config, len(targets.names)).to(model.device)
    decayed, kept = parameter_groups(encoder, WEIGHT_DECAY)
    kept["params"] += classifier.parameters()           # Muon is for matrices within a network
    optimizer = MuonAndAdamW([decayed, kept], learning_rate)
    schedule = get_cosine_schedule_with_warmup(optimizer, max(1, steps // 10), steps)
    history = []
    encoder.train()
    with progress(steps, "encoder", "steps") as line:
        for images, rows in _batches(PixelTable(table, processor), steps, batch_size, seed,
                                     augment or Augmentation()):
            scores = classifier(model.encode_images(images.to(model.device)))
            loss = caption_loss(scores, targets.values[rows].to(model.device), targets.classes)
            loss.backward()
            nn.utils.clip_grad_norm_([*decayed["params"], *kept["params"]], 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            schedule.step()
            history.append({"step": len(history) + 1, "loss": float(loss.detach())})
            line.update()
            if on_step is not None:
                on_step(history[-1])
    encoder.eval()
    return history


def _batches(pixels: PixelTable, steps: int, batch_size: int, seed: int,
             augment: Augmentation) -> Iterator[tuple[Tensor, Tensor]]:
    """So many batches of changed images (batch, 3, side, side), and their rows; in each epoch, each
    image once."""
    rng = torch.Generator().manual_seed(seed)
    order = torch.empty(0, dtype=torch.long)
    for _ in range(steps):
        while len(order) < batch_size:
            order = torch.cat([order, torch.randperm(len(pixels), generator=rng)])
        rows, order = order[:batch_size], order[batch_size:]
        yield augment(pixels[rows.tolist()], rng), rows
