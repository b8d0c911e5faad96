"""Checks of lesson 07: overlap of boxes, times of frames, false alarms."""

from __future__ import annotations

from collections.abc import Callable

from vlm_utils.check.report import call, exercise, expect

NOTHING = "Nothing changed."


@exercise
def overlap(student: Callable) -> None:
    """Boxes that overlap, that do not (in one direction, in both), and one within another."""
    pairs = [((10, 20, 50, 60), (30, 10, 80, 50)), ((0, 0, 20, 30), (40, 5, 60, 20)),
             ((0, 0, 20, 20), (50, 60, 80, 90)), ((10, 10, 90, 50), (20, 20, 40, 40)),
             ((5, 5, 25, 45), (5, 5, 25, 45))]
    result = {pair: call(student, dict(zip(("first", "second"), pair, strict=True)))
              for pair in pairs}

    def ways(measure: Callable) -> dict:
        return {pair: measure(*pair, *_sides(*pair)) for pair in pairs}

    def right(a, b, width, height):
        shared = max(width, 0) * max(height, 0)
        return shared / (_area(a) + _area(b) - shared)

    twice = ways(lambda a, b, w, h: max(w, 0) * max(h, 0) / (_area(a) + _area(b)))
    expect(result, ways(right), {"first, second": f"each of {pairs}"}, [
        (ways(lambda a, b, w, h: w * h / (_area(a) + _area(b) - w * h)),
         "two negative sides gave a positive area: boxes that do not touch share nothing, so no "
         "side may be less than 0"),
        (ways(lambda a, b, w, h: max(w * h, 0) / (_area(a) + _area(b) - max(w * h, 0))),
         "two negative sides gave a positive area: limit each side to 0 before you multiply"),
        (twice, "the shared part was counted twice below the line: subtract it once"),
        (ways(lambda a, b, w, h: max(w, 0) * max(h, 0)),
         "that is the shared area: divide it by the area that either box covers"),
        (ways(lambda a, b, w, h: max(w, 0) * max(h, 0) / min(_area(a), _area(b))),
         "the shared area was divided by the smaller box: a large box around everything would "
         "then be perfect"),
        (ways(lambda a, b, w, h: max(w, 0) * max(h, 0) / max(_area(a), _area(b))),
         "the shared area was divided by the larger box: take the area that either covers"),
        (ways(lambda a, b, w, h: max(w, 0) * max(h, 0) / _area(a)),
         "the shared area was divided by the first box alone: the measure must be the same when "
         "the two change places"),
        (ways(lambda a, b, w, h: max(w, 0) * max(h, 0) / _area(b)),
         "the shared area was divided by the second box alone: the measure must be the same when "
         "the two change places"),
        (ways(lambda a, b, w, h: 2 * twice[a, b]),
         "that is the Dice score, twice the shared area over both areas: intersection over union "
         "subtracts the shared part below the line"),
        (ways(lambda a, b, w, h: 100 * right(a, b, w, h)),
         "these are percentages: give shares between 0 and 1")])


def _sides(first: tuple, second: tuple) -> tuple[int, int]:
    return (min(first[2], second[2]) - max(first[0], second[0]),
            min(first[3], second[3]) - max(first[1], second[1]))


def _area(box: tuple) -> int:
    return (box[2] - box[0]) * (box[3] - box[1])


@exercise
def segment_centres(student: Callable) -> None:
    """One frame, several, and a duration that is no whole number."""
    for duration, count in ((10.0, 5), (7.5, 3), (6.0, 1)):
        inputs = {"duration": duration, "count": count}
        step = duration / count
        result = call(student, inputs)
        result = result if isinstance(result, str) else list(result)
        mistakes = [
            ([k * step for k in range(count)],
             "these are the beginnings of the segments: the last frame then stands well before "
             "the end of the clip; take the middle of each"),
            ([(k + 1) * step for k in range(count)],
             "these are the ends of the segments, and at the last one the clip is over: take the "
             "middle of each"),
            ([(k + 0.5) * duration for k in range(count)],
             "a segment is duration / count seconds long"),
            ([(k + 1.5) * step for k in range(count)],
             "every time is one segment too late: the first segment has number 0"),
            ([(k + 1) * duration / (count + 1) for k in range(count)],
             "the clip was cut into count + 1 pieces and the cuts were taken: first and last "
             "frame then stand further from the ends than they should"),
            ([float(int((k + 0.5) * step)) for k in range(count)],
             "the times were cut to whole seconds: keep the fractions")]
        if count > 1:
            mistakes.append(([k * duration / (count - 1) for k in range(count)],
                             "these reach from the first moment to the last, where the clip is "
                             "over: no frame may be left there to read"))
        expect(result, [(k + 0.5) * step for k in range(count)], inputs, mistakes)


@exercise
def false_alarm_rate(student: Callable) -> None:
    """Only pairs without a change count, and whatever else is said of them is an alarm."""
    predictions = [NOTHING, "The lake grew.", "A road appeared.", "A fire appeared.", NOTHING,
                   "The lake grew.", "", NOTHING, "The town shrank.", "A ship appeared.",
                   "The farm moved."]
    answers = [NOTHING, NOTHING, NOTHING, "The fire moved.", "A ship appeared.", "The lake grew.",
               NOTHING, NOTHING, "The town shrank.", NOTHING, "The farm moved."]
    inputs = {"predictions": predictions, "answers": answers}
    expect(call(student, inputs), 4 / 6, inputs, [
        (4 / 11, "the false alarms were divided by all pairs: divide by those in which nothing "
                "changed, or a test with many changes looks better than it is"),
        (6 / 11, "these are all wrong answers: of a pair that did change, a wrong answer is no "
                "false alarm"),
        (5 / 11, "that is the share of right answers over all pairs: false alarms are among the "
                "pairs in which nothing changed"),
        (2 / 6, "that is the share of the still pairs that were answered right: 1 minus it is "
                "asked"),
        (1 / 5, "that is the share of real changes that were missed: a false alarm is the opposite "
                "mistake"),
        (3 / 5, "an answer that says nothing at all was left out: it is not \"Nothing changed.\", "
                "so it counts as an alarm"),
        (4 / 8, "the false alarms were divided by the pairs in which a change was reported: divide "
                "by those in which nothing changed"),
        (4, "that is a count: divide by the pairs in which nothing changed"),
        (400 / 6, "that is a percentage: give a share between 0 and 1")])
