"""Checks of lesson 09: scores that no model can raise by saying less, or by saying everything."""

from __future__ import annotations

import string
from collections import defaultdict
from collections.abc import Callable, Sequence

from vlm_utils.check.report import Mistake, call, exercise, expect

KEYWORDS = ["yes", "no", "top left", "top center", "center left", "center", "bottom right"]
# What is asked: chosen so that no two mistakes give the same result.
PAIRS = [("dev-7-0-0", "False", "False"), ("dev-7-1-0", "True", "False"),
         ("dev-7-2-0", "True", "True"), ("dev-7-0-1", "True", "not true"),
         ("dev-7-1-1", "True", "True"), ("dev-9-0-1", "True", "true"),
         ("dev-9-1-1", "False", "False"), ("dev-9-2-1", "True", "TRUE"),
         ("dev-9-3-1", "True", "true"), ("dev-9-0-0", "True", "True"),
         ("dev-8-0-0", "False", "not false"), ("dev-8-1-0", "False", "I cannot tell")]
ANSWERS = [("Center left", "Top center."), ("top left", "Top left."), ("No", "Unknown"),
           ("A road", "A road!"), ("Yes", "Yes, no, top left, center"), ("A road", "no"),
           ("top-left", "yes and no"), ("No", "no"), ("No", "Top left."),
           ("No damage", "A road!"), ("Yes", "Top left.")]
CLASSES = [(["none"] * 6 + ["minor"] * 3 + ["destroyed"] * 2,
            ["destroyed", "none", "destroyed", "none", "ruin", "none", "minor", "ruin", "minor",
             "rubble", "destroyed"]),
           (["none"] * 5 + ["minor"] * 2 + ["destroyed"] * 3,      # "minor" is never answered
            ["none", "none", "none", "destroyed", "ruin", "destroyed", "ruin", "ruin",
             "destroyed", "destroyed"])]


@exercise
def true_false_scores(student: Callable) -> None:
    """Three sentences, two of one set and two of one number, with answers that cannot be parsed."""
    rows = PAIRS
    inputs = dict(zip(("identifiers", "labels", "predictions"),
                      map(list, zip(*rows, strict=True)), strict=True))
    answers = [(identifier.split("-"), label.lower(), said.lower())
               for identifier, label, said in rows]
    read = [(parts, label, said) for parts, label, said in answers if said in ("true", "false")]

    def accuracy(rows: list) -> float:
        return sum(label == said for _, label, said in rows) / len(rows)

    def consistency(rows: list, parts: Sequence[int] = (0, 1, 3), rule: Callable = all) -> float:
        found = [rule(answers) for answers in _grouped(rows, parts)]
        return sum(found) / len(found)

    right, whole = accuracy(answers), consistency(answers)
    exact = [(identifier.split("-"), label, said) for identifier, label, said in rows]
    held = [(parts, label, label if label in said else "") for parts, label, said in answers]
    consistent = sum(len(g) for g in _grouped(answers, (0, 1, 3)) if all(g)) / len(answers)
    expect(call(student, inputs), (right, whole), inputs, [
        ((accuracy(read), consistency(read)),
         "answers that are neither true nor false were left out: a model then gains by saying "
         "nothing when it is unsure; they are wrong, and count"),
        ((accuracy(read), whole),
         "the accuracy leaves out answers that are neither true nor false: they are wrong, and "
         "count"),
        ((right, consistency(read)),
         "the consistency leaves out answers that are neither true nor false: a sentence with "
         "such an answer is not consistent"),
        ((right, consistency(answers, (0, 1, 2))),
         "the answers were grouped by pair: a sentence is asked of several pairs, so its group "
         "has the same split, set and sentence"),
        ((right, consistency(answers, (0, 1))),
         "the two sentences of a set were taken for one: the last part of the identifier tells "
         "them apart"),
        ((right, consistency(answers, (3,))),
         "sentences of different sets were taken for one: they have the same number, and the set "
         "tells them apart"),
        ((right, consistency(answers, (0, 1, 3), any)),
         "one right answer was enough: a sentence is consistent only if all its pairs are right"),
        ((right, consistency(answers, (0, 1, 3), lambda g: sum(g) / len(g))),
         "that is the mean accuracy of the sentences: a sentence counts as a whole, or not at "
         "all"),
        ((right, consistent),
         "the pairs of consistent sentences were counted: count sentences, by the number of "
         "sentences"),
        ((accuracy(exact), consistency(exact)),
         "\"true\" was not taken for \"True\": compare in small letters"),
        ((accuracy(held), consistency(held)),
         "an answer that only holds the label was taken for it: \"not true\" is not \"true\""),
        ((whole, right), "the two scores are exchanged: accuracy first"),
        ((100 * right, 100 * whole), "these are percentages: give shares between 0 and 1"),
        ((sum(label == said for _, label, said in answers), sum(map(all, _grouped(
            answers, (0, 1, 3))))), "these are counts: divide by the number of answers, and of "
                                    "sentences")])


def _grouped(rows: list, parts: Sequence[int]) -> list[list[bool]]:
    groups = defaultdict(list)
    for identifier, label, said in rows:
        groups[tuple(identifier[k] for k in parts)].append(label == said)
    return list(groups.values())


@exercise
def undeserved(student: Callable) -> None:
    """Keywords shared, hidden in longer words, and shared by texts that are equal."""
    rows = ANSWERS
    inputs = dict(zip(("truths", "predictions"), map(list, zip(*rows, strict=True)), strict=True))
    inputs["keywords"] = KEYWORDS
    result = call(student, inputs)
    right = _undeserved(rows)
    wrong = [i for i, (truth, said) in enumerate(rows) if _plain(truth) != _plain(said)]
    counted = [i for i, (truth, said) in enumerate(rows)
               if _plain(truth) == _plain(said) or _shared(_plain(truth), _plain(said))]
    if isinstance(result, list | tuple) and result and set(map(type, result)) == {bool}:
        raise Mistake("that is True or False for each answer: give the positions of those that "
                      "are undeserved, as a list of numbers", inputs, result, right)
    expect(sorted(result) if isinstance(result, set) else result, right, inputs, [
        (counted, "these are all answers that count: those that are equal to the truth have "
                  "deserved it, leave them out"),
        (wrong, "these are all answers that are wrong: undeserved are those of them that the rule "
                "counts, because of a keyword"),
        ([i for i in range(len(rows)) if i not in counted],
         "these are the answers that the rule does not count: it is the other ones that gain"),
        ([i for i, (truth, said) in enumerate(rows) if _plain(truth) != _plain(said)
          and _shared(_plain(truth), _plain(said), whole=True)],
         "the keywords were looked for as whole words: the rule looks for letters, so that \"no\" "
         "is found in \"unknown\""),
        (_undeserved(rows, lower=False),
         "capitals make a difference here: put both texts into small letters, for the rule and "
         "for the comparison"),
        (_undeserved(rows, punctuation=False),
         "a full stop makes an answer undeserved: take the punctuation away before you compare"),
        ([i for i, (truth, said) in enumerate(rows) if truth != said
          and _shared(_plain(truth), _plain(said))],
         "the texts were compared as they stand: an answer that differs from the truth only by "
         "capitals or a full stop has deserved to count"),
        ([i for i, (truth, said) in enumerate(rows) if _plain(truth) != _plain(said)
          and any(word in _plain(said) for word in KEYWORDS)],
         "the keyword was looked for in the prediction alone: the rule asks for the same one in "
         "the truth as well"),
        ([i for i, (truth, said) in enumerate(rows) if _plain(truth) != _plain(said)
          and any(word in _plain(truth) for word in KEYWORDS)],
         "the keyword was looked for in the truth alone: the rule asks for the same one in the "
         "prediction as well"),
        ([i for i, (truth, said) in enumerate(rows) if _plain(truth) != _plain(said)
          and any(word in _plain(said) for word in KEYWORDS)
          and any(word in _plain(truth) for word in KEYWORDS)],
         "any keyword in the one and any in the other were enough: it must be the same one"),
        ([i + 1 for i in right], "the positions count from 1: Python's count from 0"),
        ([rows[i][1] for i in right], "these are the answers themselves: give their positions"),
        (len(right), "that is how many there are: give their positions, as a list")])


def _plain(text: str, lower: bool = True, punctuation: bool = True) -> str:
    text = text.lower() if lower else text
    return text.translate(str.maketrans("", "", string.punctuation)) if punctuation else text


def _shared(truth: str, said: str, whole: bool = False) -> bool:
    if whole:
        return any(f" {word} " in f" {truth} " and f" {word} " in f" {said} " for word in KEYWORDS)
    return any(word in truth and word in said for word in KEYWORDS)


def _undeserved(rows: list, lower: bool = True, punctuation: bool = True) -> list[int]:
    pairs = [(_plain(truth, lower, punctuation), _plain(said, lower, punctuation))
             for truth, said in rows]
    return [i for i, (truth, said) in enumerate(pairs) if truth != said and _shared(truth, said)]


@exercise
def weighted_f1(student: Callable) -> None:
    """Classes of different frequency, made-up ones, and one that is never named."""
    for truths, said in CLASSES:
        _check_f1(student, truths, said)


def _check_f1(student: Callable, truths: list[str], said: list[str]) -> None:
    inputs = {"truths": truths, "predictions": said}
    result = call(student, inputs, advice={
        ZeroDivisionError: "a class that no answer names has no precision; the F1 of the "
                           "docstring, from counts, needs none"})
    names = sorted(set(truths))
    pairs = list(zip(truths, said, strict=True))

    def f1(name: str, misses: Callable = lambda truth, answer: True) -> float:
        hits = sum(truth == answer == name for truth, answer in pairs)
        alarms = sum(truth != answer == name for truth, answer in pairs)
        missed = sum(truth == name != answer and misses(truth, answer) for truth, answer in pairs)
        return 2 * hits / max(1, 2 * hits + alarms + missed)

    def weighed(score: Callable, weights: Sequence[str] = truths) -> float:
        return sum(weights.count(name) * score(name) for name in names) / max(1, sum(
            weights.count(name) for name in names))

    known = [(truth, answer) for truth, answer in pairs if answer in names]
    right = weighed(f1)
    if result is not None and result != result:
        raise Mistake("the result is nan: of a class that no answer names, hits over answers is 0 "
                      "over 0; its F1 is 0", inputs, result, right)

    def precision(name: str) -> float:
        return sum(t == a == name for t, a in pairs) / max(1, said.count(name))

    expect(result, right, inputs, [
        (weighed(lambda name: f1(name, lambda truth, answer: answer in names)),
         "an answer that is not a class cost nothing: its sample is missed by the true class, so "
         "that a model cannot gain by making up a class"),
        (weighed(lambda name: f1(name, lambda truth, answer: answer in names),
                 [truth for truth, _ in known]),
         "the samples whose answer is not a class were left out: a model could then gain by making "
         "up a class when it is unsure; they are missed by the true class"),
        (sum(map(f1, names)) / len(names),
         "that is the plain mean over the classes: weigh each by its share of the truths"),
        (sum(map(f1, names)) / len({*truths, *said}),
         "classes that only answers name were counted as well: their share of the truths is 0"),
        (weighed(f1, said), "the classes were weighed by how often they are answered: weigh them "
                            "by how often they are true"),
        (sum(truth == answer for truth, answer in pairs) / len(pairs),
         "that is the accuracy, or the recall of the classes, weighed: false alarms have to count "
         "as well"),
        (weighed(precision), "that is the precision of the classes, weighed: misses have to count "
                             "as well"),
        (weighed(lambda name: f1(name) / 2),
         "the 2 above the line is missing: twice the hits"),
        (100 * right, "that is a percentage: give a share between 0 and 1")])
