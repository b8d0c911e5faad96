"""Checks of lesson 10: the memory of a step, and which process reads which shards."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

from vlm_utils.check.report import Mistake, call, exercise, expect

MB = 1_000_000


@exercise
def step_memory(student: Callable) -> None:
    """AdamW with everything trained, then a part of it, and an optimizer that keeps one number."""
    cases = ((220_000_000, 137_000_000, 330, 30, 11_904, 4, 49_152, 2),
             (1_000_000, 250_000, 64, 3, 900, 10, 500, 1))
    names = ("weights", "trained", "tokens", "layers", "kept", "answers", "vocabulary", "moments")
    for case in cases:
        inputs = dict(zip(names, case, strict=True))
        right = _parts(**inputs)
        result = call(student, inputs)
        if isinstance(result, int | float) and abs(result - sum(right.values())) < 1e-3 * result:
            raise Mistake("that is the sum: give each part under its name, for the largest one is "
                          "where to begin saving", inputs, result, right)
        if isinstance(result, dict) and result.keys() != right.keys():
            raise Mistake(f"the keys are {', '.join(map(str, result))}, and they should be "
                          f"{', '.join(right)}", inputs, result, right)
        expect(result, right, inputs, _wrong_parts(inputs, right))


def _parts(weights: int, trained: int, tokens: int, layers: int, kept: int, answers: int,
           vocabulary: int, moments: int, number: float = 4 / MB) -> dict[str, float]:
    return {"weights": weights * number, "gradients": trained * number,
            "moments": moments * trained * number, "activations": tokens * layers * kept * number,
            "logits": answers * vocabulary * number}


def _wrong_parts(inputs: dict, right: dict) -> list[tuple]:
    given = inputs | {}
    wrong = [
        (_parts(**given, number=4), "these are bytes: divide by a million for MB"),
        (_parts(**given, number=1 / MB), "these are millions of numbers: one in float32 takes 4 "
                                         "bytes"),
        (_parts(**given, number=2 / MB), "2 bytes a number is half precision: float32 takes 4"),
        (_parts(**given, number=4 / 2**20), "these are MiB (2**20 bytes): a MB is a million"),
        (right | {"gradients": right["weights"]},
         "the gradients are those of all weights: what is frozen gets none, so count trained"),
        (_parts(**given | {"trained": given["weights"]}),
         "gradients and moments are those of all weights: what is frozen has neither, so count "
         "trained"),
        (right | {"activations": right["activations"] / given["layers"]},
         "the activations are those of one layer: backward needs those of every layer"),
        (right | {"activations": right["activations"] / given["tokens"]},
         "the activations are those of one token: each token of the batch has its own"),
        (_parts(**given | {"answers": given["tokens"]}),
         "the logits are those of every token: the loss reads those of the answers, and these few "
         "are all that the model computes"),
        (right | {"logits": right["logits"] / given["vocabulary"]},
         "one logit for each answer token: there is one for each word of the vocabulary")]
    if given["moments"] != 1:
        wrong.append((_parts(**given | {"moments": 1}),
                      "one moment for each trained weight: AdamW keeps two; multiply by moments"))
    return wrong


@exercise
def shards_of_process(student: Callable) -> None:
    """Shards that divide evenly and shards that do not, over two epochs."""
    for count, processes in ((8, 2), (7, 3)):
        shards = [f"shard-{i}.tar" for i in range(count)]
        epochs = [[_ask(student, shards, process, processes, epoch)
                   for process in range(processes)] for epoch in (0, 1)]
        for epoch, shares in enumerate(epochs):
            _expect_each_once(shards, shares, processes, epoch)
        inputs = {"shards": shards, "process": 0, "processes": processes, "epoch": 1}
        again = _ask(student, shards, 0, processes, 1)
        if again != epochs[1][0]:
            raise Mistake("asked twice, it gives other shards: a training that is resumed would "
                          "read another order, so draw from random.Random(epoch)", inputs, again,
                          epochs[1][0])
        if epochs[0] == epochs[1]:
            raise Mistake("every epoch has the same order: let epoch decide how the shards are "
                          "shuffled", inputs, epochs[1][0])


def _ask(student: Callable, shards: Sequence[str], process: int, processes: int,
         epoch: int) -> list[str]:
    inputs = {"shards": list(shards), "process": process, "processes": processes, "epoch": epoch}
    result = call(student, inputs)
    if not isinstance(result, list | tuple) or not set(result) <= set(shards):
        raise Mistake("the result is not a list of shards: give those that the process reads, by "
                      "name", inputs, result)
    return list(result)


def _expect_each_once(shards: list[str], shares: list[list[str]], processes: int,
                      epoch: int) -> None:
    """Raise Mistake if a shard is read twice or never, or one process has more to do."""
    read = Counter(shard for share in shares for shard in share)
    lost = sorted(set(shards) - read.keys())
    twice = sorted(shard for shard, times in read.items() if times > 1)
    inputs = {"shards": shards, "process": "each", "processes": processes, "epoch": epoch}
    if twice and not lost:
        message = ("every process reads every shard, so each sample is learnt from several times "
                   "an epoch: deal them out" if len(twice) == len(shards) else
                   f"{', '.join(twice)} are read by more than one process")
    elif twice:
        message = (f"{', '.join(twice)} are read twice and {', '.join(lost)} by nobody: all "
                   "processes must shuffle alike before each takes its part, so the number of the "
                   "process must not decide the shuffle")
    elif lost:
        message = (f"nobody reads {', '.join(lost)}: if the shards do not divide evenly, some "
                   "processes read one more; and processes are numbered from 0")
    elif max(map(len, shares)) - min(map(len, shares)) > 1:
        message = (f"the processes read {', '.join(str(len(s)) for s in shares)} shards: they wait "
                   "for each other at every step, so no one should have more than one shard more")
    else:
        return
    raise Mistake(message, inputs, shares)
