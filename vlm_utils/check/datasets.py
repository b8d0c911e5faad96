"""Checks of lesson 02: leakage, honest selections, labels."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable

import numpy as np
import torch

from vlm_utils.check.report import Mistake, call, exercise, expect, same

SEEDS = 200
REPEATED = 20   # of these seeds; a sample that owes nothing to rng may be the same by chance once


@exercise
def find_leaks(student: Callable) -> None:
    """Test images whose pixels or whose place were trained on."""
    train = [{"place": "A", "pixels": (1, 2)}, {"place": "B", "pixels": (3, 4)},
             {"place": None, "pixels": (5, 6)}]
    test = [{"place": "C", "pixels": (7, 8)}, {"place": "B", "pixels": (9, 9)},
            {"place": None, "pixels": (5, 6)}, {"place": None, "pixels": (8, 8)},
            {"place": "D", "pixels": (1, 2)}, {"place": "A", "pixels": (1, 2)}]
    inputs = {"train": train, "test": test}
    right = [1, 2, 4, 5]
    result = call(student, inputs)
    if same(result, [i in right for i in range(len(test))]):
        raise Mistake("that is True or False for each test image: give the positions of the leaks",
                      inputs, result, right)
    if same(result, [test[i] for i in right]):
        raise Mistake("these are the images: give their positions in test (enumerate counts them)",
                      inputs, result, right)
    try:
        result = sorted(result)  # in any order, as a list or as a set
    except TypeError:
        pass                 # these are not numbers: shown as they are
    unknown = ("an unknown place was taken for a place: None says that nothing is known, so two "
               "None are not a leak")
    pairwise = ("the images were compared position by position: any training image may be the "
                "same as any test image")
    both = "a leak was seen only if place and pixels both agree: one is enough"
    expect(result, right, inputs, [
        ([2, 4, 5], "only identical pixels were found: test image 1 shows place B, which is "
                    "trained on, in other pixels"),
        ([1, 5], "only known places were compared: identical pixels are a leak too, whatever "
                 "the place is called"),
        ([1, 2, 3, 5], unknown), ([1, 2, 3, 4, 5], unknown),
        ([1, 2, 4, 5, 5], "test image 5 leaks in two ways and stands in the list twice"),
        ([1, 2], pairwise), ([1], pairwise),
        ([2, 5], both), ([5], both),
        ([0, 1, 2], "these are the numbers of training images: the test images are asked for"),
        ([0, 3], "these are the clean test images: the leaks are asked for"),
        ([2, 3, 5, 6], "the positions count from 1: as an index, the first image is 0"),
        (4, "that is a count: give the positions of the images in test")])


@exercise
def make_selection(student: Callable) -> None:
    """Over many seeds: one right image, at any position, and distractors that do not fit."""
    shows = [{"road"}, {"forest"}, set(), {"forest", "road"}, {"lake"}, {"lake", "road"}]

    def ask(seed: int) -> tuple:
        inputs = {"shows": shows, "wanted": "lake", "num_images": 3}
        result = call(student, inputs | {"rng": np.random.default_rng(seed)}, may_change=["rng"])
        return result, inputs | {"rng": f"np.random.default_rng({seed})"}

    samples = []
    for seed in range(SEEDS):
        result, inputs = ask(seed)
        samples.append((*_read_selection(result, shows, inputs), result))
    for seed in range(REPEATED):
        again, inputs = ask(seed)
        if not same(again, samples[seed][2]):
            raise Mistake("the same seed gave another sample: draw everything from rng, so that "
                          "the data can be made again", inputs, again, samples[seed][2])
    positions = Counter(position for _, position, _ in samples)
    for position in range(3):
        if not SEEDS / 5 < positions[position] < SEEDS / 2:
            raise Mistake(
                "the positions are not balanced: a model that never looks and always names one "
                "of them would look clever", inputs,
                {f"<image_{p + 1}>": positions[p] for p in range(3)},
                f"about {SEEDS // 3} of {SEEDS} samples for each position")
    used = {row for rows, _, _ in samples for row in rows}
    if used != set(range(6)):
        raise Mistake(f"image {min(set(range(6)) - used)} is never used in {SEEDS} samples: draw "
                      "the right image and the distractors from all that are possible", inputs,
                      sorted(used), list(range(6)))


def _read_selection(result, shows: list[set], inputs: dict) -> tuple[list[int], int]:
    """Rows and the position of the right image, from 0; raises Mistake if they are wrong."""
    wanted = "rows of three images, one of which shows a lake, and the answer <image_k>"
    if not (isinstance(result, tuple | list) and len(result) == 2 and isinstance(result[1], str)):
        raise Mistake("return two things: the rows, and the answer as a text", inputs, result,
                      wanted)
    rows = [int(row) for row in result[0]]
    if len(rows) != 3:
        raise Mistake(f"{len(rows)} images were chosen, and num_images is 3: the right image "
                      "counts too", inputs, result, wanted)
    if len(set(rows)) < 3:
        raise Mistake("an image stands in the sample twice: draw without replacement", inputs,
                      result, wanted)
    fitting = [position for position, row in enumerate(rows) if "lake" in shows[row]]
    if not fitting:
        raise Mistake("no image shows a lake: the question has no answer", inputs, result, wanted)
    if len(fitting) > 1:
        raise Mistake("a distractor shows a lake too: the question has more than one right "
                      "answer, so draw distractors from the images that do not show one",
                      inputs, result, wanted)
    position = fitting[0]
    right = f"<image_{position + 1}>"
    if result[1] == right:
        return rows, position
    if not re.fullmatch(r"<image_\d+>", result[1]):
        message = "the answer is the identifier alone, <image_k>"
    elif result[1] == f"<image_{position}>":
        message = "the answer counts from 0: identifiers count from 1"
    elif result[1] in (f"<image_{rows[position]}>", f"<image_{rows[position] + 1}>"):
        message = "the answer names the row of the table: it must name the position in the sample"
    else:
        message = "the answer names another image than the one that shows a lake"
    raise Mistake(message, inputs, result, (rows, right))


@exercise
def mask_labels(student: Callable) -> None:
    """Labels of a padded batch in which the end token also pads."""
    ids = torch.tensor([[7, 9, 9, 8, 21, 22, 2], [7, 8, 23, 2, 2, 2, 2]])
    real = torch.tensor([[1, 1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0, 0]])
    inputs = {"input_ids": ids, "attention_mask": real, "prompt_lengths": [4, 2]}
    place = torch.arange(7).expand(2, 7)

    def labels(shorter: int = 0, where=real == 1, ignored: int = -100) -> torch.Tensor:
        prompt = place < torch.tensor([[4], [2]]) - shorter
        return torch.where(prompt | ~where, ignored, ids)

    right = labels()
    shifted = torch.cat([right[:, 1:], torch.full((2, 1), -100)], dim=1)
    placeholders = "only the placeholders were masked: the words of the prompt are given too"
    expect(call(student, inputs), right, inputs, [
        (labels(where=(real == 1) & (ids != 2)),
         "the end token was masked because it is also the padding token: a model that never "
         "learns it never stops; the attention mask tells what is padding"),
        (labels(where=place >= 0), "the padding is learnt: mask it where the attention mask is 0"),
        (torch.where(real == 1, ids, -100), "the prompt is learnt: only the answer is"),
        (torch.where((real == 1) & (ids != 9), ids, -100), placeholders),
        (torch.where(ids != 9, ids, -100), placeholders),
        (shifted, "the labels are shifted: the model shifts them itself, and twice is wrong"),
        (labels(shorter=1), "the last token of the prompt is learnt: one label too many"),
        (labels(shorter=-1), "the first token of the answer is masked: one label too few"),
        (torch.where(place < 4, -100, labels()), "every row was masked as far as the first "
                                                 "prompt reaches: each has a length of its own"),
        (right != -100, "that is what is learnt, as True and False: give the ids there and -100 "
                        "elsewhere"),
        (right == -100, "that is what is masked, as True and False: give -100 there and the ids "
                        "elsewhere"),
        (torch.where(right == -100, ids, -100), "this is upside down: the prompt and the padding "
                                                "are learnt, and the answer is masked"),
        (labels(ignored=0), "0 is a token like any other: the loss leaves out -100"),
        (labels(ignored=-1), "the loss leaves out -100, not -1")])
