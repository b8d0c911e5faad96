"""Checks of lesson 01: layout, merging, counting."""

from __future__ import annotations

import re
from collections.abc import Callable

import torch

from vlm_utils.check.report import Mistake, call, exercise, expect, expect_error


@exercise
def interleave(student: Callable) -> None:
    """Each block at its own `<image>`."""
    blocks = ["<image><image><image_1>", "<image><image><image_2>"]
    inputs = {"prompt": "Before: <image> After: <image> What changed?", "blocks": blocks}
    prompt = inputs["prompt"]
    pieces = prompt.split("<image>")
    nested = prompt
    for block in blocks:
        nested = nested.replace("<image>", block, 1)
    result = call(student, inputs)
    if isinstance(result, list | tuple):
        raise Mistake("these are pieces: join them into one text", inputs, result,
                      _joined(pieces, blocks))
    expect(result, _joined(pieces, blocks), inputs, [
        (nested, "block 2 went into block 1: a block holds <image> itself, so replacing one "
                 "after the other finds the wrong place; split the prompt first"),
        ("".join(blocks) + "".join(pieces),
         "the blocks still stand in front of all text: this is the prepended layout"),
        (_joined(pieces, [blocks[0]] * 2), "every <image> became block 1: take the next block "
                                           "for the next image"),
        (_joined(pieces, blocks[::-1]), "the blocks are in the wrong order"),
        (_joined(pieces[:2] + [""], blocks),
         "the text after the last image is lost: there is one more piece of text than images"),
        ("".join(b + p for b, p in zip(blocks, pieces[1:], strict=True)),
         "the text before the first image is lost: there is one more piece of text than images"),
        (prompt, "the prompt is as it was: .replace does not change a text, it returns a new one"),
        ("".join(pieces), "the <image> are gone and no block is in their place")])
    inputs = {"prompt": "<image><image>What changed?", "blocks": blocks}
    result = call(student, inputs)
    merged = re.split("(?:<image>)+", inputs["prompt"])
    expect(result, "".join(blocks) + "What changed?", inputs, [
        (_joined(merged, blocks[:1]),
         "two images side by side were taken for one: adjacent <image> count each")])
    inputs = {"prompt": "<image>" * 4 + "What changed?", "blocks": [*blocks, "<image><image_3>"]}
    expect_error(student, inputs, says=[4, 3], message=(
        "a missing image goes unnoticed: raise a ValueError if the number of <image> in the "
        "prompt is not the number of blocks"))


@exercise
def merge_images(student: Callable) -> None:
    """Image embeddings at the placeholders, over two samples and three images."""
    ids = torch.tensor([[5, 9, 9, 6, 7, 0], [9, 9, 9, 9, 5, 6]])
    words = torch.zeros(2, 6, 2) - 1.0
    images = torch.tensor([[[k + t / 10, k + t / 10] for t in (1, 2)] for k in (1, 2, 3)])
    inputs = {"word_embeddings": words, "image_embeddings": images, "input_ids": ids,
              "image_token_id": 9}
    flat = images.reshape(-1, 2)

    def filled(row_0, row_1) -> torch.Tensor:
        """The words with these image vectors, by number, at the placeholders of each row."""
        out = words.clone()
        out[0, 1:1 + len(row_0)] = flat[row_0]
        out[1, :len(row_1)] = flat[row_1]
        return out

    woven, means = words.clone(), words.clone()
    woven[ids == 9] = images.transpose(0, 1).reshape(-1, 2)
    means[ids == 9] = images.mean(dim=1).repeat_interleave(2, dim=0)
    expect(call(student, inputs), filled([0, 1], [2, 3, 4, 5]), inputs, [
        (words, "no placeholder was replaced: the words are returned as they were"),
        (filled([0, 1], [0, 1, 2, 3]),
         "the second sample starts again with image 1: the stack goes on from sample to sample"),
        (filled([0, 1], [2, 3]),
         "adjacent placeholders were merged: two images side by side are four placeholders in a "
         "row, not one image"),
        (filled([0, 1], []), "only the first sample got its images: go through all rows"),
        (filled([0, 0], [2, 2, 4, 4]), "all tokens of an image got its first vector"),
        (filled([1, 1], [3, 3, 5, 5]), "all tokens of an image got its last vector"),
        (means, "all tokens of an image got one mean vector: each token has its own"),
        (woven, "the images are woven into each other: all tokens of image 1 come before those "
                "of image 2")])
    _expect_gradients(student, inputs)
    few = inputs | {"image_embeddings": images[:2]}
    expect_error(student, few, says=[6, 4], message=(
        "an image too few goes unnoticed: raise a ValueError that says how many placeholder "
        "tokens there are (6) and how many image tokens (4)"))
    many = inputs | {"image_embeddings": torch.cat([images, images[:1] + 3])}
    expect_error(student, many, says=[6, 8], message=(
        "an image too many goes unnoticed: raise a ValueError that says how many placeholder "
        "tokens there are (6) and how many image tokens (8)"))


def _expect_gradients(student: Callable, inputs: dict) -> None:
    """The result must remember what it was made of: else projector and words never learn."""
    names = ["word_embeddings", "image_embeddings"]
    leaves = {name: inputs[name].clone().requires_grad_() for name in names}
    results = {name: leaf * 1.0 for name, leaf in leaves.items()}   # as layers return them
    result = call(student, inputs | results, may_change=names)
    if result.requires_grad:
        result.sum().backward()
    for name in reversed(names):
        if leaves[name].grad is None or not leaves[name].grad.any():
            raise Mistake(f"the values are right, and no gradient reaches {name}: what makes "
                          "them would never learn, so do without .detach(), .data and NumPy",
                          inputs, f"requires_grad = {result.requires_grad}")


@exercise
def images_that_fit(student: Callable) -> None:
    """How many images the context holds beside the text."""
    inputs = {"positions": 8192, "image_size": 224, "patch_size": 16, "merge_factor": 2,
              "text_tokens": 110}
    room = 8192 - 110
    class_token = ("the class token was counted: it is left out before the patches are merged, "
                   "so an image takes its merged patches and one identifier")
    expect(call(student, inputs), room // 50, inputs, [
        (room // 49, "the identifier was forgotten: each image takes one token more"),
        (room // 51, class_token),
        (8192 // 50, "the text was forgotten: it takes positions too"),
        (8192 // 160, "the text was counted once for each image: it stands in the prompt once"),
        (room // 99, "merging folds a square of factor x factor patches: divide by the factor "
                     "squared"),
        (room // 197, "the merging was forgotten: several patches become one token"),
        (room // 4, "the patches form a square: a side of 14 patches makes 14 x 14"),
        (room / 50, "a part of an image does not fit: give a whole number (//)"),
        (room // 50 + 1, "that is one image too many: round down, a part does not fit")])
    inputs = {"positions": 512, "image_size": 64, "patch_size": 16, "merge_factor": 1,
              "text_tokens": 100}
    expect(call(student, inputs), 412 // 17, inputs, [(412 // 18, class_token)])
    inputs = {"positions": 20, "image_size": 32, "patch_size": 16, "merge_factor": 2,
              "text_tokens": 30}
    result = call(student, inputs)
    if result < 0:
        raise Mistake("that is less than no image: if the text alone is too long, 0 images fit",
                      inputs, result, 0)
    expect(result, 0, inputs)


def _joined(pieces: list[str], blocks: list[str]) -> str:
    return pieces[0] + "".join(b + p for b, p in zip(blocks, pieces[1:], strict=True))
