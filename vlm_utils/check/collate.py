"""Checks of lesson 03: a flat stack of images, padded texts, wasted tokens."""

from __future__ import annotations

from collections.abc import Callable

import torch

from vlm_utils.check.report import Mistake, call, exercise, expect

PAD = 2  # the end token pads too, as SmolLM's does


@exercise
def collate_samples(student: Callable) -> None:
    """A sample of one image and one of three, the second of which is black."""
    pixels = torch.tensor([5.0, 6.0, 0.0, 8.0]).reshape(4, 1, 1, 1).expand(4, 3, 1, 1).clone()
    samples = [{"pixels": pixels[:1], "prompt": [5, 9], "answer": [21, 2]},
               {"pixels": pixels[1:], "prompt": [9, 9, 9, 6], "answer": [22, 23, 2]}]
    inputs = {"samples": samples, "pad_token_id": PAD, "for_generation": False}
    batch = _read_batch(student, inputs, ["pixel_values", "input_ids", "attention_mask", "labels"])
    _expect_images(batch["pixel_values"], pixels, inputs)
    ids = torch.tensor([[5, 9, 21, 2, 2, 2, 2], [9, 9, 9, 6, 22, 23, 2]])
    real = torch.tensor([[1, 1, 1, 1, 0, 0, 0], [1, 1, 1, 1, 1, 1, 1]])
    on_left = torch.tensor([[2, 2, 2, 5, 9, 21, 2], [9, 9, 9, 6, 22, 23, 2]])
    _expect_length(batch["input_ids"], 7, inputs)
    expect(batch["input_ids"], ids, inputs, [
        (on_left, "training was padded on the left: that is for generation; here the padding "
                  "follows the answer"),
        (torch.where(real == 1, ids, 0), "the gaps were filled with 0: that is a token like any "
                                         "other, so use pad_token_id"),
        (torch.where(real == 1, ids, -100), "the gaps of input_ids were filled with -100: that "
                                            "is for the labels, and no word has this number")])
    _expect_mask(batch["attention_mask"], real, ids, inputs)
    learnt = torch.tensor([[0, 0, 1, 1, 0, 0, 0], [0, 0, 0, 0, 1, 1, 1]]) == 1
    expect(batch["labels"], torch.where(learnt, ids, -100), inputs, [
        (torch.where(learnt & (ids != PAD), ids, -100),
         "the end token is not learnt: it was masked because it is also the padding token"),
        (torch.where(real == 1, ids, -100), "the prompt is learnt: give it the label -100"),
        (ids, "prompt and padding are learnt: give them the label -100"),
        (torch.where(learnt | (real == 0), ids, -100),
         "the padding is learnt: give it the label -100")])
    _check_generation(student, samples, pixels)


def _check_generation(student: Callable, samples: list[dict], pixels: torch.Tensor) -> None:
    inputs = {"samples": samples, "pad_token_id": PAD, "for_generation": True}
    batch = _read_batch(student, inputs, ["pixel_values", "input_ids", "attention_mask"])
    _expect_images(batch["pixel_values"], pixels, inputs)
    ids = torch.tensor([[2, 2, 5, 9], [9, 9, 9, 6]])
    real = torch.tensor([[0, 0, 1, 1], [1, 1, 1, 1]])
    if torch.as_tensor(batch["input_ids"]).shape == (2, 7):
        raise Mistake("the answers are still there: in generation the model writes them, so only "
                      "the prompts go in", inputs, batch["input_ids"], ids)
    expect(batch["input_ids"], ids, inputs, [
        (torch.tensor([[5, 9, 2, 2], [9, 9, 9, 6]]),
         "generation was padded on the right: new tokens are written at the right end, and there "
         "they would follow the padding, not the prompt"),
        (torch.where(real == 1, ids, 0), "the gaps were filled with 0: use pad_token_id")])
    _expect_mask(batch["attention_mask"], real, ids, inputs)
    if "labels" in batch:
        raise Mistake("the batch has labels: in generation no answer is known", inputs,
                      sorted(batch), sorted(set(batch) - {"labels"}))


def _read_batch(student: Callable, inputs: dict, names: list[str]) -> dict:
    result = call(student, inputs)
    if not isinstance(result, dict):
        raise Mistake(f"that is a {type(result).__name__}: return a dict of tensors", inputs,
                      result, names)
    missing = [name for name in names if name not in result]
    if missing:
        raise Mistake(f"the batch lacks {', '.join(missing)}", inputs, sorted(result),
                      sorted(names))
    loose = [name for name in names if not isinstance(result[name], torch.Tensor)]
    if loose:
        raise Mistake(f"{loose[0]} is a {type(result[loose[0]]).__name__}: the model takes tensors",
                      inputs, result[loose[0]], "a tensor")
    return result


def _expect_images(result: torch.Tensor, pixels: torch.Tensor, inputs: dict) -> None:
    if result.numel() > pixels.numel():
        raise Mistake("padding images were added: the stack is flat and holds the real images "
                      "only, one after another", inputs, result, pixels)
    expect(result, pixels, inputs, [
        (pixels[[0, 1, 3]], "a black image was taken for padding and lost: what is padding "
                            "cannot be told from pixels"),
        (pixels[[1, 2, 3, 0]], "the images are not in the order of the samples"),
        (pixels[[0, 1]], "each sample lost all images but its first")])


def _expect_length(result: torch.Tensor, longest: int, inputs: dict) -> None:
    if result.dim() == 2 and result.shape[1] > longest:
        raise Mistake(f"the rows are {result.shape[1]} tokens long: pad to the longest sample of "
                      f"the batch, {longest}, and no further", inputs, result)


def _expect_mask(result: torch.Tensor, real: torch.Tensor, ids: torch.Tensor, inputs: dict) -> None:
    # Models take a mask of numbers or of True and False: of floats, the values count.
    expect(result.long(), real, inputs, [
        (ids != PAD, "the end token is not attended, because it is also the padding token: make "
                     "the mask from the lengths, not from the ids"),
        (torch.ones_like(ids), "the padding is attended: the mask is 0 there"),
        (1 - real, "the mask is upside down: 1 is a real token, 0 is padding"),
        (real.flip(1), "the mask is padded on the other side than the ids")])


@exercise
def split_images(student: Callable) -> None:
    """Which images of the stack belong to which sample?"""
    images = torch.tensor([[1.0], [2.0], [3.0], [4.0]])
    ids = torch.tensor([[9, 9, 5, 6, 0, 0, 0], [9, 9, 9, 9, 5, 9, 9]])
    inputs = {"images": images, "input_ids": ids, "image_token_id": 9, "tokens_per_image": 2}
    result = call(student, inputs, advice={RuntimeError: (
        "The numbers of images must add up to the stack: count the placeholders of each row "
        "(dim=1) and divide by tokens_per_image.")})
    items = [item.tolist() if hasattr(item, "tolist") else item for item in result]
    expect(items, [images[:1].tolist(), images[1:].tolist()], inputs, [
        ([images[:2].tolist(), images[2:].tolist()],
         "every sample got the same number of images, or one for each placeholder: count the "
         "placeholders of each row and divide by tokens_per_image"),
        ([images[:1].tolist(), images[1:3].tolist()],
         "adjacent placeholders were merged: two images side by side were counted as one"),
        ([images[:1].tolist(), images[:3].tolist()],
         "each sample starts again with the first image: go on where the last one ended"),
        ([images[3:].tolist(), images[:3].tolist()], "the samples are in the wrong order"),
        ([images[0].tolist(), images[1:].tolist()],
         "a sample with one image lost its first dimension: a slice of one, images[0:1], keeps "
         "it, images[0] does not"),
        ([images[:1].tolist()], "the last sample is missing: its images are left in the stack"),
        ([1, 3], "these are the numbers of images: give each sample the images themselves")])


@exercise
def wasted_tokens(student: Callable) -> None:
    """Padding over batches in the given order, the last of which is smaller."""
    lengths = [3, 8, 4, 4, 10, 2, 7, 5]
    inputs = {"lengths": lengths, "batch_size": 3}
    in_order = sorted(lengths)

    def waste(rows: list[int], size: int = 3, pad_to: Callable = max) -> int:
        batches = [rows[i:i + size] for i in range(0, len(rows), size)]
        return sum(pad_to(b) * len(b) - sum(b) for b in batches)

    right = waste(lengths)
    padded = right + sum(lengths)
    expect(call(student, inputs), right, inputs, [
        (max(lengths) * len(lengths) - sum(lengths),
         "all batches were padded to the longest sample of all: each is padded to its own"),
        (waste(lengths[:6]), "the last, smaller batch was left out"),
        (waste(lengths[6:]), "only the last batch was counted: add up over all batches"),
        (waste(lengths[:3]), "only the first batch was counted: a return inside the loop ends it"),
        (right + 7, "the last batch was counted as if it were full: it has two rows only"),
        (waste(in_order), "the samples were sorted first: take them in the order given"),
        (waste(lengths, pad_to=lambda b: b[0]),
         "each batch was padded to its first sample: the longest decides"),
        (waste(lengths, pad_to=lambda b: max(b) / len(b)),
         "the longest of a batch was counted once: each of its rows is padded to it"),
        (waste(lengths, 2), "the batches have the wrong size"),
        (sum(lengths), "these are the tokens that are used: count the padding"),
        (padded, "these are all tokens: subtract those that are not padding"),
        (right / padded, "that is a share: give the number of padding tokens")])
