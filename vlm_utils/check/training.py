"""Checks of lesson 04: weight decay, accumulation, schedule."""

from __future__ import annotations

import copy
import math
from collections import Counter
from collections.abc import Callable

import torch
from torch import nn

from vlm_utils.check.report import Mistake, call, exercise, expect, same


class _Parts(nn.Module):
    """A frozen encoder, words, one layer with its norm, and a head tied to the words."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.Linear(2, 2).requires_grad_(False)
        self.words = nn.Embedding(5, 2)
        self.layer = nn.Linear(2, 2)
        self.norm = nn.LayerNorm(2)
        self.head = nn.Linear(2, 5, bias=False)
        self.head.weight = self.words.weight


@exercise
def decay_groups(student: Callable) -> None:
    """The right parameters decay, and each stands in one group."""
    model = _Parts()
    result = call(student, {"model": model, "weight_decay": 0.1}, may_change=["model"])
    inputs = {"model": f"{model}\nhead.weight is words.weight; encoder is frozen",
              "weight_decay": 0.1}
    expected = {"0.1": ["layer.weight"],
                "0.0": ["layer.bias", "norm.bias", "norm.weight", "words.weight"]}
    if not (isinstance(result, list | tuple) and result and all(
            isinstance(group, dict) and {"params", "weight_decay"} <= group.keys()
            for group in result)):
        raise Mistake("return a list of dicts, each with params and weight_decay", inputs, result,
                      expected)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups = [(group["weight_decay"], [names.get(id(p), "no parameter of the model")
                                       for p in group["params"]]) for group in result]
    found = {str(float(value)): sorted(name for decay, listed in groups if decay == value
                                       for name in listed) for value, _ in groups}
    decayed = {name for decay, listed in groups if decay for name in listed}
    times = Counter(name for _, listed in groups for name in listed)

    def wrong(message: str) -> Mistake:
        return Mistake(message, inputs, found, expected)

    if any(isinstance(parameter, str) for group in result for parameter in group["params"]):
        raise wrong("these are names: an optimizer takes the parameters themselves")
    if any(name.startswith("encoder") for name in times):
        raise wrong("the frozen encoder is in a group: take parameters with requires_grad only")
    if "words.weight" in decayed and times["words.weight"] > 1:
        raise wrong("words.weight stands twice: the tied head is the same parameter, and an "
                    "optimizer would refuse it")
    if "words.weight" in decayed:
        raise wrong("the embeddings decay: rows of words that no batch uses get no gradient and "
                    "would be erased (the head is tied to them: look at the embedding module, "
                    "not at the shape)")
    if any(times[name] > 1 for name in times):
        raise wrong(f"{times.most_common(1)[0][0]} stands twice: an optimizer would refuse it")
    if decayed & {"norm.weight", "norm.bias", "layer.bias"}:
        raise wrong("norms or biases decay: only matrices do, and these have one dimension")
    missing = set(expected["0.1"] + expected["0.0"]) - set(times)
    if missing:
        raise wrong(f"{', '.join(sorted(missing))} is in no group: it would never be trained")
    if decayed != {"layer.weight"}:
        raise wrong("layer.weight does not decay: it is a matrix")
    if found.keys() != expected.keys():
        raise wrong("the group decays by another number than weight_decay: use what is given")
    expect(found, expected, inputs)


@exercise
def accumulate_gradients(student: Callable) -> None:
    """The gradient of small batches is the gradient of one large batch."""
    torch.manual_seed(0)
    model = nn.Linear(2, 3, bias=False)
    batches = [(torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [2.0, 0.0]]),
                torch.tensor([-100, -100, -100, 0])),
               (torch.tensor([[0.0, 2.0], [1.0, -1.0], [-1.0, 0.0]]), torch.tensor([1, 2, 2]))]
    answers = [1, 3]
    expected, loss = _gradient(model, batches, [1 / sum(answers)] * 2)
    ways = {
        "this is the mean of the batches' means: the single answer token of batch 1 weighs as "
        "much as all three of batch 2": [1 / (2 * n) for n in answers],
        "these are the batches' means, added up: divide by the answer tokens of all batches":
            [1 / n for n in answers],
        "masked tokens were counted: labels of -100 are not answer tokens": [1 / 7] * 2,
        "the sum was divided by the number of batches: divide by the answer tokens of all "
        "batches": [1 / 2] * 2,
        "the sum was divided by nothing: divide by the answer tokens of all batches": [1, 1],
        "only the last batch counts: the gradients of the first were set to zero on the way":
            [0, 1 / sum(answers)],
        "only the last batch counts: the gradients of the first were set to zero, and each batch "
        "was averaged by itself": [0, 1 / answers[1]]}
    given = copy.deepcopy(model)
    result = call(student, {"model": given, "batches": batches}, may_change=["model"],
                  returns=False)
    inputs = {"model": str(model), "model.weight": model.weight.detach(), "batches": batches}
    if not same(given.weight.detach(), model.weight.detach()):
        raise Mistake("the weights have moved: leave the step to the optimizer", inputs)
    if given.weight.grad is None:
        raise Mistake("there is no gradient: call backward on the loss of each batch", inputs,
                      None, expected)
    expect(given.weight.grad, expected, inputs, [
        (_gradient(model, batches, weights)[0], message) for message, weights in ways.items()])
    if isinstance(result, torch.Tensor) and result.requires_grad:
        raise Mistake("the loss still remembers its graph, and with it all activations: return "
                      "loss.item()", inputs, result, loss)
    if result is None:
        raise Mistake("the gradients are right, and no loss is returned: end with return", inputs,
                      result, loss)
    expect(result, loss, inputs, [
        (_gradient(model, batches, weights)[1],
         "the gradients are right, and the loss is not: add up the very losses that you call "
         "backward on") for weights in [*ways.values(), [1 / sum(answers), 0]]])


def _gradient(model: nn.Module, batches: list, weights: list[float]) -> tuple[torch.Tensor, float]:
    """Gradient and loss of the batches' summed losses, each times its weight."""
    model = copy.deepcopy(model)
    loss = sum(weight * nn.functional.cross_entropy(model(x), y, reduction="sum")
               for weight, (x, y) in zip(weights, batches, strict=True))
    loss.backward()
    return model.weight.grad, loss.item()


@exercise
def learning_rate(student: Callable) -> None:
    """The schedule at chosen steps, warm-up and cosine."""
    warmup, steps, peak = 4, 12, 0.1
    asked = [0, 1, 2, 4, 6, 8, 10, 12]
    result = {step: call(student, {"step": step, "warmup_steps": warmup, "steps": steps,
                                 "peak": peak}) for step in asked}

    def schedule(later: Callable, first: Callable = lambda s: s / warmup) -> dict:
        return {s: peak * (first(s) if s < warmup else later(s)) for s in asked}

    def rest(s: float) -> float:
        return (s - warmup) / (steps - warmup)

    def fall(share: float) -> float:
        return 0.5 * (1 + math.cos(math.pi * share))

    inputs = {"step": f"each of {asked}", "warmup_steps": warmup, "steps": steps, "peak": peak}
    expected = schedule(lambda s: fall(rest(s)))
    expect(result, expected, inputs, [
        (schedule(lambda s: fall(s / steps)),
         "the rate jumps down when the warm-up is over: the cosine runs over the steps that are "
         "left, not over all of them"),
        (schedule(lambda s: fall(s / steps), first=lambda s: fall(s / steps)),
         "there is no warm-up: the rate starts at its peak"),
        (schedule(lambda s: fall(rest(s)), first=lambda s: fall(rest(s))),
         "there is no warm-up: before it ends, the rate rises in a straight line from 0"),
        (schedule(lambda s: fall(rest(s)), first=lambda s: 1.0),
         "there is no warm-up: the rate starts at its peak"),
        (schedule(lambda s: 1.0), "the rate never falls: after the warm-up comes the cosine"),
        (schedule(lambda s: 1 - rest(s)), "the rate falls in a straight line, not as a cosine"),
        (schedule(lambda s: math.cos(math.pi * rest(s))),
         "the rate becomes negative, and training would climb: a cosine runs from 1 to -1, so "
         "take half of 1 + cosine"),
        (schedule(lambda s: fall(180 * rest(s) / math.pi)),
         "the angle is in degrees: math.cos takes radians, half a turn is math.pi"),
        (schedule(lambda s: fall(2 * rest(s))),
         "the rate rises again: half a turn (pi) is enough, not a whole one"),
        (schedule(lambda s: math.cos(math.pi / 2 * rest(s))),
         "that is a quarter of a cosine: it reaches 0, and it is steepest there; half a turn, "
         "0.5 * (1 + cos), is level at both ends"),
        (schedule(lambda s: fall(s / (steps - warmup))),
         "the fall starts in the middle: count its steps from the end of the warm-up, "
         "step - warmup_steps"),
        (schedule(lambda s: fall((s - warmup) / (steps - warmup - 1))),
         "the fall ends one step early: it takes steps - warmup_steps steps"),
        (schedule(lambda s: fall(rest(s)), first=lambda s: (s + 1) / warmup),
         "the warm-up is one step early: step 0 has the rate 0"),
        ({s: value / peak for s, value in expected.items()},
         "these are shares of the peak: multiply by it")])
