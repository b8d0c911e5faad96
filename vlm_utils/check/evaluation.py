"""Checks of lesson 05: accuracy, interval, permutation."""

from __future__ import annotations

import math
from collections.abc import Callable

from scipy.stats import binomtest, norm

from vlm_utils.check.report import Mistake, call, exercise, expect


@exercise
def selection_accuracy(student: Callable) -> None:
    """Unparseable answers stay in the count, and are wrong."""
    predictions = ["<image_2>", "It is <image_1>.", "the lake", "<image_1> or <image_3>",
                   "<image_3>", "", "<image_3>", "<image_12>", "<image_21>"]
    answers = ["<image_2>", "<image_1>", "<image_3>", "<image_1>", "<image_2>", "<image_1>",
               "<image_3>", "<image_1>", "<image_2>"]
    inputs = {"predictions": predictions, "answers": answers}
    dropped = ("answers that cannot be parsed were dropped: a model could then look better by "
               "saying nothing, so they stay in the count, as wrong")
    several = ("an answer that names two images was taken for right: a model that names all of "
               "them would always be right, so it counts as wrong")
    digit = ("only the first digit was read: <image_12> is not <image_1>, so read the whole "
             "number (\\d+)")
    expect(call(student, inputs), 3 / 9, inputs, [
        (3 / 7, dropped), (3 / 6, dropped), (4 / 7, f"{dropped}; and {several}"),
        (4 / 9, several), (5 / 9, digit), (6 / 9, f"{digit}; and {several}"),
        (2 / 9, "only an answer that is the identifier alone was taken for right: 'It is "
                "<image_1>.' names the image too"),
        (1 / 9, "only a prediction that is longer than its answer was taken for right"),
        (3, "that is a count: divide by the number of samples"),
        (6, "that is the number of wrong ones: give the share of right ones"),
        (300 / 9, "that is a percentage: give a share between 0 and 1")])


@exercise
def wilson(student: Callable) -> None:
    """The interval for many, for a single one, and for another width."""
    for correct, total, z in ((19, 20, 1.96), (1, 1, 1.96), (30, 40, 1.0)):
        inputs = {"correct": correct, "total": total, "z": z}
        share, expected = correct / total, _wilson(correct, total, z)
        shrink = 1 + z**2 / total
        centre = (share + z**2 / (2 * total)) / shrink
        half = (expected[1] - expected[0]) / 2
        far = (share + z**2 / 2 * total) / shrink                   # without the brackets
        wide = z / shrink * math.sqrt(share * (1 - share) / total + z**2 / 4 * total**2)
        wald = z * math.sqrt(share * (1 - share) / total)
        normal = ("this is the normal approximation: it leaves the range from 0 to 1, and calls "
                  "1 of 1 a certainty")
        expect(call(student, inputs), expected, inputs, [
            ((share - wald, share + wald), normal),
            ((max(0.0, share - wald), min(1.0, share + wald)), normal),
            ((share - half, share + half),
             "the width is right and the centre is not: it moves from the share towards one half"),
            ((max(0.0, share - half), min(1.0, share + half)),
             "the width is right and the centre is not: it moves from the share towards one half"),
            ((centre - wald, centre + wald),
             "the centre is right and the width is not: z**2 / (4 * total**2) is missing"),
            ((centre - half * shrink, centre + half * shrink),
             "the half width was not divided by 1 + z**2 / total"),
            ((centre * shrink - half, centre * shrink + half),
             "the centre was not divided by 1 + z**2 / total"),
            (((centre - half) * shrink, (centre + half) * shrink),
             "nothing was divided by 1 + z**2 / total"),
            (_wilson(correct, total, 1.96),
             "the width is always that of 1.96 standard errors: z is given, so use it"),
            *(((far - width, far + width), "z**2 / 2 * total multiplies by total: set brackets, "
               "z**2 / (2 * total)") for width in (half, wide)),
            (expected[::-1], "the bounds are swapped: low comes first"),
            ((100 * expected[0], 100 * expected[1]), "these are percentages: give shares"),
            ((centre, half), "these are centre and half width: give the two bounds")])


def _wilson(correct: int, total: int, z: float) -> tuple[float, float]:
    interval = binomtest(correct, total).proportion_ci(2 * norm.cdf(z) - 1, method="wilson")
    return float(interval.low), float(interval.high)


@exercise
def permute_selection(student: Callable) -> None:
    """Images in another order, and the answer moved with them."""
    rows, order = (30, 40, 50, 60), [2, 0, 3, 1]
    inputs = {"rows": rows, "answer": "<image_2>", "order": order}
    moved, other, shifted = (50, 30, 60, 40), (40, 60, 30, 50), (40, 60, 50, 30)
    result = call(student, inputs)
    if not (isinstance(result, tuple | list) and len(result) == 2):
        raise Mistake("return two things: the rows and the answer", inputs, result,
                      (moved, "<image_4>"))
    if not isinstance(result[1], str) or "<image_" not in result[1]:
        raise Mistake("the answer is an identifier, as a text: <image_k>", inputs, result,
                      (moved, "<image_4>"))
    expect((tuple(result[0]), result[1]), (moved, "<image_4>"), inputs, [
        ((moved, "<image_2>"), "the images moved and the answer did not: row 40 now stands last"),
        ((moved, "<image_1>"), "the answer was moved by the inverse: order[1] says which image "
                               "comes to place 1; look for the place that image 1 comes to"),
        ((moved, "<image_3>"), "the answer counts from 0: identifiers count from 1"),
        ((rows, "<image_4>"), "the answer moved and the images did not"),
        ((rows, "<image_2>"), "nothing has moved"),
        *(((shifted, f"<image_{k}>"), "places in order count from 0, and only identifiers from 1: "
                                      "place i takes image order[i]") for k in range(1, 5)),
        *(((other, f"<image_{k}>"), "the images were moved by the inverse: place i takes image "
                                    "order[i]") for k in range(1, 5))])


SELECTIONS = [("lake", "road", "forest"), ("road", "forest", "lake"), ("town", "lake", "road"),
              ("town", "forest", "road"), ("road", "lake", "town")]
ORDERS = [[2, 1, 0], [0, 2, 1], [1, 2, 0], [0, 2, 1], [2, 1, 0]]


def _finds_the_lake(images) -> int | None:
    return list(images).index("lake") + 1 if "lake" in images else None


def _always_first(images) -> int:
    return 1


@exercise
def permutation_agreement(student: Callable) -> None:
    """A model that sees agrees with itself; one that prefers a position does not."""
    texts = {_finds_the_lake: "the number of the image that is 'lake', from 1; None without one",
             _always_first: "always 1"}
    for choose, text in texts.items():
        call_inputs = {"choose": choose, "selections": SELECTIONS, "orders": ORDERS}
        result = call(student, call_inputs, advice={TypeError: (
            "If the answer cannot be read, choose returns None: look for that before you "
            "compute with it.")})
        first = [choose(images) for images in SELECTIONS]
        second = [choose([images[i] for i in order])
                  for images, order in zip(SELECTIONS, ORDERS, strict=True)]
        pairs = list(zip(first, second, ORDERS, strict=True))

        def share(agrees: Callable, pairs=pairs) -> float:
            return sum(a is not None and b is not None and agrees(a, b, order)
                       for a, b, order in pairs) / len(pairs)

        right = share(lambda a, b, order: order[b - 1] == a - 1)
        unread = sum(a is None or b is None for a, b, _ in pairs)
        positions = share(lambda a, b, order: a == b)
        by_position = ("the positions were compared: after the move, the same number is another "
                       "image; a model that always says 1 would agree with itself")
        silent = ("an answer that could not be read (None) was counted as agreement or left out: "
                  "it stays in the count, as disagreement")
        expect(result, right, call_inputs | {"choose": text}, [
            (positions, by_position),
            (positions + unread / len(pairs), by_position),
            (share(lambda a, b, order: order[a - 1] == b - 1),
             "the move was undone the wrong way round: place i holds image order[i], so place i "
             "of the second question shows image order[i] of the first"),
            (share(lambda a, b, order: order[b - 1] == a),
             "images count from 1 and places in order from 0: subtract 1 on both sides"),
            (right + unread / len(pairs), silent),
            (right * len(pairs) / (len(pairs) - unread), silent),
            (right * len(pairs), "that is a count: divide by the number of selections")])
