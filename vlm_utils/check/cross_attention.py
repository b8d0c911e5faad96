"""Checks of lesson 08: which text sees which image, a leak found, a leak closed."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from vlm_utils.check.report import Mistake, call, exercise, expect, same

HIDDEN = float("-inf")


@exercise
def visible_images(student: Callable) -> None:
    """Both kinds, over samples with three images, with two, and with none."""
    ids = torch.tensor([[5, 9, 6, 9, 9, 7, 8], [9, 5, 6, 7, 9, 5, 6], [5, 6, 7, 8, 5, 6, 7]])
    for kind in ("preceding", "immediate"):
        inputs = {"input_ids": ids, "image_token_id": 9, "kind": kind}
        result = call(student, inputs)
        own = ids == 9
        right = _seen(own.cumsum(dim=1), kind)
        if isinstance(result, Tensor) and result.dtype != torch.bool and same(result, right):
            raise Mistake(f"the values are right, and the tensor is {result.dtype}: attention adds "
                          "a mask of numbers to the scores and hides nothing, so return bool",
                          inputs, result, right)
        expect(result, right, inputs, _wrong_masks(own, kind, right))


def _seen(come: Tensor, kind: str, images: int = 3, first: int = 1) -> Tensor:
    """The mask for these counts of images that have come, (batch, length)."""
    number = torch.arange(first, first + images)
    return come[..., None] == number if kind == "immediate" else come[..., None] >= number


def _wrong_masks(own: Tensor, kind: str, right: Tensor) -> list[tuple]:
    """own: (batch, length), bool, the placeholders."""
    come = own.cumsum(dim=1)
    running = own.flatten().cumsum(dim=0).view_as(come)
    total, last = int(own.sum()), own.sum(dim=1, keepdim=True).expand_as(come)
    on = "the count runs on from sample to sample: each sample starts again with its image 1"
    wrong = [
        (_seen(come - own.long(), kind),
         "a placeholder does not see its own image: count it too, so that the place at which an "
         "image comes is the first that sees it"),
        (_seen(come, kind, first=0),
         "every place sees an image that has not come yet: if one placeholder has come, the count "
         "is 1, so number the images from 1"),
        (_seen(own.cumsum(dim=0), kind),
         "the placeholders were counted over the batch: count along the text, dim=1, so that "
         "samples do not mix"),
        (_seen(running, kind, total), on), (_seen(running, kind), on),
        (~right, "the mask is upside down: True means that the place sees the image"),
        (_seen(last, "preceding"),
         "every place sees all images of its sample, also those that come later: count what has "
         "come up to each place"),
        (own[..., None] & _seen(come, "immediate"),
         "only the placeholders see: the words after them must see the image too"),
        (_seen(come, kind, total),
         "there is a column for each image of the batch: each sample counts its own, so as many "
         "columns as the sample with most images has"),
        (right.transpose(1, 2),
         "the dimensions are exchanged: places first, then images")]
    if kind == "immediate":
        return [*wrong, (_seen(come, "preceding"),
                         "all images that have come are seen: \"immediate\" means the last one "
                         "only")]
    return [*wrong,
            (_seen(come, "immediate"),
             "only the last image is seen: \"preceding\" means all that have come"),
            (come[..., None] <= torch.arange(1, 4),
             "later images are seen and earlier ones are not: the comparison is the wrong way "
             "round")]


class _Block:
    """A block like gated cross-attention. Some places that see nothing get something all the same.

    own: (length, 1), what is added to each place in any case. leaks: (length, dim), how much of
    the first image state reaches each place past the mask.
    """

    def __init__(self, own: Tensor, leaks: Tensor, name: str):
        self.own, self.leaks, self.name = own, leaks, name

    def __call__(self, states: Tensor, images: Tensor, mask: Tensor) -> Tensor:
        return states + self.own + mask.to(images.dtype) @ images + self.leaks * images[0, 0]

    def __repr__(self) -> str:
        return self.name


@exercise
def leaking_rows(student: Callable) -> None:
    """Leaks that are large, small, without a mean, and in one number; and a block without any."""
    mask = torch.zeros(9, 3, dtype=torch.bool)
    mask[2, :2] = mask[3, 1] = mask[7] = True
    own = torch.tensor([1.0] * 8 + [0.0])[:, None]
    leaks = torch.zeros(9, 4)
    leaks[0], leaks[1] = 0.5, 0.0004
    leaks[4], leaks[5, 2] = torch.tensor([0.5, -0.5, 0.25, -0.25]), 0.75
    images = torch.tensor([[0.0, 1, 0, 0], [0, 0, 0.5, 1], [1, 0.5, 0, 0]])
    others = torch.tensor([[1.0, 0, 0, 1], [0, 0, 0.5, 1], [0, 1.0, 1, 0]])
    data = {"states": torch.arange(36.0).view(9, 4) / 64, "images": images, "others": others,
            "mask": mask}
    tight = _Block(own, torch.zeros(9, 4), "a block in which nothing passes the mask")
    leaky = _Block(own, leaks, "a block in which the images reach places 0 and 5 past the mask, "
                               "place 4 with a mean of 0,\nand place 1 with a change of 0.0004")
    right, blind = [0, 1, 4, 5], [0, 1, 4, 5, 6, 8]
    everything = ("these are all places that see nothing: only those leak whose own result is "
                  "another one with the other images")
    changed = ("these are all places that change: a place that sees an image may change with it, "
               "so keep those whose row of the mask is empty")
    states = ("the result was compared with states, and a block may change a place without any "
              "image: compare its results with images and with others")
    partly = ("a place that sees some of the image states is not blind: its row of the mask "
              "must be empty, so ask any, not all")
    _expect_places(student, {"attend": leaky} | data, right, [
        ([0, 1, 2, 4, 5, 7], changed), (blind, everything), ([2, 7], _ALLOWED),
        ([0, 1, 2, 4, 5], partly),
        ([0, 1, 4, 5, 6], states), (list(range(8)), states),
        ([0, 4, 5], "the small leak at place 1 was passed over: while the gates are almost closed "
                    "every leak is small, so take no tolerance, or a tiny one"),
        ([0, 1, 5], "place 4 was passed over: its numbers change and their mean (or sum) does "
                    "not, so compare number by number"),
        ([0, 1, 4], "place 5 was passed over: one of its numbers changes, so ask any, not all"),
        ([1, 2, 5, 6], "the places count from 1: as an index, the first place is 0"),
        ([], "no leak was found, and there are four: attend twice, with images and with others"),
        (4, "that is a count: give the places"),
        (True, "that says that there is a leak: give the places, so that it can be found")])
    _expect_places(student, {"attend": tight} | data, [], [
        (blind, everything), ([2, 7], changed), ([2], partly), ([0, 1, 4, 5, 6], states)])


_ALLOWED = ("these are the places that change and may: the leaks are those that change although "
            "their row of the mask is empty")


def _expect_places(student: Callable, inputs: dict, right: list, mistakes: list) -> None:
    result = call(student, inputs, may_change=["attend"])
    length = len(inputs["mask"])
    if same(result, [place in right for place in range(length)]):
        raise Mistake("that is True or False for each place: give the numbers of the places that "
                      "leak, as a list", inputs, result, right)
    try:
        result = sorted(result)     # in any order, as a list or as a set
    except TypeError:
        pass                        # these are not numbers: shown as they are
    expect(result, right, inputs, mistakes)


@exercise
def attend_safely(student: Callable) -> None:
    """Some states hidden, all, and none; then scores beyond exp, and gradients."""
    inputs = {
        "queries": torch.tensor([[1.0, 2, 0, 1], [0, 1, 3, 1], [2, 1, 0, 1], [1, 1, 2, 0],
                                 [1, 0, 1, 3]]),
        "keys": torch.tensor([[1.0, 0, 1, 1], [0, 2, 1, 0], [1, 1, 0, 2]]),
        "values": torch.tensor([[1.0, 0, 0, 2], [0, 3, 0, 4], [0, 0, 5, 9]]),
        "mask": torch.tensor([[1, 0, 0], [1, 1, 0], [0, 0, 0], [1, 1, 1], [0, 1, 1]]).bool()}
    result = call(student, inputs)
    right = _attention(**inputs)
    sees = inputs["mask"].any(dim=-1)
    if not isinstance(result, Tensor) or result.shape != right.shape:
        expect(result, right, inputs, [
            (right[sees], "a place that sees nothing was left out: it stays, with zeros")])
    _name_nan(result, sees, inputs, right)
    _expect_part(result, right, sees, inputs, _wrong_seeing(**inputs))
    _expect_part(result, right, ~sees, inputs, _wrong_blind(**inputs))
    _expect_large_scores(student)
    _expect_gradients(student, inputs)


def _attention(queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor,
               scale: float = 0.5) -> Tensor:
    """As the exercise asks for it, if the scale is 1 / sqrt(4)."""
    sees = mask.any(dim=-1, keepdim=True)
    scores = (scale * queries @ keys.T).masked_fill(~mask & sees, HIDDEN)
    return (scores.softmax(dim=-1) @ values).masked_fill(~sees, 0)


def _name_nan(result: Tensor, sees: Tensor, inputs: dict, right: Tensor) -> None:
    rows = result.isnan().any(dim=-1)
    if not rows.any():
        return
    if torch.equal(rows, ~sees):
        message = ("the place that sees nothing got NaN: in a row of -inf alone nothing can share "
                   "the weight, and the softmax divides 0 by 0")
    elif torch.equal(rows, inputs["mask"].all(dim=-1)):
        message = ("the place that sees everything got NaN: the mask is upside down, True means "
                   "that a place sees the state, so hide where it is False")
    else:
        message = "there is NaN at places that see something: print the scores and the weights"
    raise Mistake(message, inputs, result, right)


def _expect_part(result: Tensor, right: Tensor, rows: Tensor, inputs: dict,
                 mistakes: list[tuple]) -> None:
    """Raise Mistake if these rows are not right; `mistakes` are looked at in these rows alone."""
    wrong_rows = [(torch.where(rows[:, None], wrong, result), message)
                  for wrong, message in mistakes]
    expect(result, result if same(result[rows], right[rows]) else right, inputs, wrong_rows)


def _wrong_seeing(queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor) -> list[tuple]:
    """What places that see something get if the weights are wrong."""
    raw = queries @ keys.T
    scores, sees = raw / 2, mask.any(dim=-1, keepdim=True)

    def scaled(scale: float) -> Tensor:
        return _attention(queries, keys, values, mask, scale)

    columns = ("the softmax went over the places of the text: each place shares its weight among "
               "the image states, dim=-1")
    return [
        ((scores * mask).softmax(dim=-1) @ values,
         "a hidden score of 0 is not hidden: exp(0) is 1, so it takes its share of the weight; "
         "hide with -inf"),
        ((scores.softmax(dim=-1) * mask) @ values,
         "the weights of a place do not sum to 1: what was hidden after the softmax has taken its "
         "share before; hide before the softmax"),
        (scores.softmax(dim=-1) @ values, "nothing is hidden: the mask was not used"),
        (scaled(1.0), "the scores were not scaled: divide them by the square root of dim"),
        (scaled(0.25), "the scores were divided by dim: divide by its square root"),
        (scaled(2.0), "the scores were multiplied by the square root of dim: divide by it"),
        (scaled(len(keys) ** -0.5),
         "the scores were divided by the square root of the number of image states: take dim, "
         "the length of a query"),
        (scaled(len(queries) ** -0.5),
         "the scores were divided by the square root of the number of places: take dim, the "
         "length of a query"),
        (scores.masked_fill(~mask, HIDDEN).softmax(dim=0) @ values, columns),
        (scores.masked_fill(~mask & sees, HIDDEN).softmax(dim=0) @ values, columns),
        ((scores.softmax(dim=0) * mask) @ values, columns),
        (scores.masked_fill(~mask, 0) @ values, "there is no softmax: the scores themselves were "
                                                "used as weights"),
        (scores.masked_fill(mask, -1e9).softmax(dim=-1) @ values,
         "the mask is upside down: True means that a place sees the state, so hide where it is "
         "False")]


def _wrong_blind(queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor) -> list[tuple]:
    """What a place gets that sees nothing."""
    return [
        (values.mean(dim=0).expand_as(queries),
         "the place that sees nothing got the mean of all values: a row of equal numbers, however "
         "low, shares the weight equally, and so the images leak into it"),
        ((queries @ keys.T / 2).softmax(dim=-1) @ values,
         "the place that sees nothing got what it would get if it saw everything: put zeros there"),
        (values.sum(dim=0).expand_as(queries),
         "the place that sees nothing got the sum of all values: put zeros there"),
        (queries, "the place that sees nothing got its query: the result is what is added to the "
                  "states later, so it must be zeros")]


def _expect_large_scores(student: Callable) -> None:
    """exp(200) is inf in float32, and beside a score of 200 one of 1 is nothing."""
    inputs = {
        "queries": torch.tensor([[400.0, 398, 0, 0], [2, 4, 400, 0], [-400, -398, 0, 0],
                                 [1, 2, 3, 0]]),
        "keys": torch.eye(3, 4), "values": torch.tensor([[1.0, 0, 0, 2], [0, 3, 0, 4],
                                                         [0, 0, 5, 9]]),
        "mask": torch.tensor([[1, 1, 0], [1, 1, 0], [1, 1, 0], [0, 0, 0]]).bool()}
    result, right = call(student, inputs), _attention(**inputs)
    if not isinstance(result, Tensor) or result.shape != right.shape:
        expect(result, right, inputs)
    lost = ("a hidden state with a large score has taken all the weight, and nothing was left for "
            "those that are seen: hide before the softmax, not after it")
    if result[0].isnan().any():
        raise Mistake("exp(200) is more than a float32 can hold, and inf / inf is NaN: use "
                      "torch's softmax, which subtracts the largest score first", inputs, result,
                      right)
    if result[1].isnan().any() or same(result[1], torch.zeros(4)):
        raise Mistake(lost, inputs, result, right)
    if same(result[2], inputs["values"][2]):
        raise Mistake("a hidden state has won: the scores that are seen are lower than the number "
                      "that was to hide it; only -inf is below all", inputs, result, right)
    expect(result, right, inputs)


def _expect_gradients(student: Callable, inputs: dict) -> None:
    names = ["queries", "keys", "values"]
    leaves = {name: inputs[name].clone().requires_grad_() for name in names}
    results = {name: leaf * 1.0 for name, leaf in leaves.items()}   # as layers return them
    result = call(student, inputs | results, may_change=names)
    if result.requires_grad:
        result.sum().backward()
    for name in names:
        grad = leaves[name].grad
        if grad is None or not grad.any():
            raise Mistake(f"the values are right, and no gradient reaches {name}: what makes them "
                          "would never learn, so do without .detach(), .data and NumPy", inputs,
                          f"requires_grad = {result.requires_grad}")
        if not grad.isfinite().all():
            raise Mistake(f"the values are right, and the gradient of {name} holds NaN: zeros put "
                          "over NaN at the end do not help, because 0 times NaN is NaN on the way "
                          "back; a row that sees nothing must never become a row of -inf", inputs,
                          {f"{name}.grad": grad}, "numbers")
