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
    """Five sentences, two of one set and two of one number, with answers that cannot be parsed."""
    inputs = dict(zip(("identifiers", "labels", "predictions"),
                      map(list, zip(*PAIRS, strict=True)), strict=True))
    answers = [(identifier.split("-"), label.lower(), said.lower())
               for identifier, label, said in PAIRS]
    right = _accuracy(answers), _consistency(answers)
    expect(call(student, inputs), right, inputs, [
        *_wrong_answers(answers), *_wrong_groups(answers),
        (right[::-1], "the two scores are exchanged: accuracy first"),
        ((100 * right[0], 100 * right[1]),
         "these are percentages: give shares between 0 and 1"),
        ((right[0] * len(answers), right[1] * len(_grouped(answers))),
         "these are counts: divide by the number of answers, and of sentences")])


def _wrong_answers(answers: list) -> list[tuple]:
    """The scores if answers are left out, or taken for what they are not."""
    read = [row for row in answers if row[2] in ("true", "false")]
    exact = [(identifier.split("-"), label, said) for identifier, label, said in PAIRS]
    held = [(parts, label, label if label in said else "") for parts, label, said in answers]
    return [
        ((_accuracy(read), _consistency(read)),
         "answers that are neither true nor false were left out: a model then gains by saying "
         "nothing when it is unsure; they are wrong, and count"),
        ((_accuracy(read), _consistency(answers)),
         "the accuracy leaves out answers that are neither true nor false: they are wrong, and "
         "count"),
        ((_accuracy(answers), _consistency(read)),
         "the consistency leaves out answers that are neither true nor false: a sentence with "
         "such an answer is not consistent"),
        ((_accuracy(exact), _consistency(exact)),
         "\"true\" was not taken for \"True\": compare in small letters"),
        ((_accuracy(held), _consistency(held)),
         "an answer that only holds the label was taken for it: \"not true\" is not \"true\"")]


def _wrong_groups(answers: list) -> list[tuple]:
    """The scores if the sentences are not told apart, or counted in another way."""
    pairs = sum(len(group) for group in _grouped(answers) if all(group)) / len(answers)
    wrong = [
        (_consistency(answers, (0, 1, 2)),
         "the answers were grouped by pair: a sentence is asked of several pairs, so its group "
         "has the same split, set and sentence"),
        (_consistency(answers, (0, 1)),
         "the two sentences of a set were taken for one: the last part of the identifier tells "
         "them apart"),
        (_consistency(answers, (3,)),
         "sentences of different sets were taken for one: they have the same number, and the set "
         "tells them apart"),
        (_consistency(answers, rule=any),
         "one right answer was enough: a sentence is consistent only if all its pairs are right"),
        (_consistency(answers, rule=lambda group: sum(group) / len(group)),
         "that is the mean accuracy of the sentences: a sentence counts as a whole, or not at "
         "all"),
        (pairs, "the pairs of consistent sentences were counted: count sentences, and divide by "
                "the number of sentences")]
    return [((_accuracy(answers), score), message) for score, message in wrong]


def _accuracy(answers: list) -> float:
    return sum(label == said for _, label, said in answers) / len(answers)


def _consistency(answers: list, parts: Sequence[int] = (0, 1, 3), rule: Callable = all) -> float:
    found = [rule(group) for group in _grouped(answers, parts)]
    return sum(found) / len(found)


def _grouped(rows: list, parts: Sequence[int] = (0, 1, 3)) -> list[list[bool]]:
    groups = defaultdict(list)
    for identifier, label, said in rows:
        groups[tuple(identifier[k] for k in parts)].append(label == said)
    return list(groups.values())


@exercise
def undeserved(student: Callable) -> None:
    """Keywords shared, hidden in longer words, and shared by texts that are equal."""
    inputs = dict(zip(("truths", "predictions"), map(list, zip(*ANSWERS, strict=True)),
                      strict=True)) | {"keywords": KEYWORDS}
    result, right = call(student, inputs), _undeserved()
    if isinstance(result, list | tuple) and result and set(map(type, result)) == {bool}:
        raise Mistake("that is True or False for each answer: give the positions of those that "
                      "are undeserved, as a list of numbers", inputs, result, right)
    expect(sorted(result) if isinstance(result, set) else result, right, inputs, [
        *_other_sets(), *_other_rules(),
        ([i + 1 for i in right], "the positions count from 1: Python's count from 0"),
        ([ANSWERS[i][1] for i in right],
         "these are the answers themselves: give their positions"),
        (len(right), "that is how many there are: give their positions, as a list")])


def _other_sets() -> list[tuple]:
    """Positions of all that counts, of all that is wrong, of all that does not count."""
    wrong = [i for i, (truth, said) in enumerate(ANSWERS) if _plain(truth) != _plain(said)]
    lost = [i for i in wrong if i not in _undeserved()]
    return [
        ([i for i in range(len(ANSWERS)) if i not in lost],
         "these are all answers that count: those that are equal to the truth have deserved it, "
         "leave them out"),
        (wrong, "these are all answers that are wrong: undeserved are those of them that the rule "
                "counts, because of a keyword"),
        (lost, "these are the answers that the rule does not count: it is the other ones that "
               "gain")]


def _other_rules() -> list[tuple]:
    """Positions of what counts by another rule, or differs by another comparison."""
    def wrong_by(rule: Callable) -> list[int]:
        return [i for i, (truth, said) in enumerate(ANSWERS) if _plain(truth) != _plain(said)
                and rule(_plain(truth), _plain(said))]

    def holds(text: str) -> bool:
        return any(word in text for word in KEYWORDS)

    return [
        (wrong_by(lambda truth, said: any(f" {word} " in f" {truth} " and f" {word} " in
                                          f" {said} " for word in KEYWORDS)),
         "the keywords were looked for as whole words: the rule looks for letters, so that \"no\" "
         "is found in \"unknown\""),
        (_undeserved(lower=False),
         "capitals make a difference here: put both texts into small letters, for the rule and "
         "for the comparison"),
        (_undeserved(punctuation=False),
         "a full stop makes an answer undeserved: take the punctuation away before you compare"),
        ([i for i, (truth, said) in enumerate(ANSWERS) if truth != said
          and _shared(_plain(truth), _plain(said))],
         "the texts were compared as they stand: an answer that differs from the truth only by "
         "capitals or a full stop has deserved to count"),
        (wrong_by(lambda truth, said: holds(said)),
         "the keyword was looked for in the prediction alone: the rule asks for the same one in "
         "the truth as well"),
        (wrong_by(lambda truth, said: holds(truth)),
         "the keyword was looked for in the truth alone: the rule asks for the same one in the "
         "prediction as well"),
        (wrong_by(lambda truth, said: holds(truth) and holds(said)),
         "any keyword in the one and any in the other were enough: it must be the same one")]


def _plain(text: str, lower: bool = True, punctuation: bool = True) -> str:
    text = text.lower() if lower else text
    return text.translate(str.maketrans("", "", string.punctuation)) if punctuation else text


def _shared(truth: str, said: str) -> bool:
    return any(word in truth and word in said for word in KEYWORDS)


def _undeserved(lower: bool = True, punctuation: bool = True) -> list[int]:
    pairs = [(_plain(truth, lower, punctuation), _plain(said, lower, punctuation))
             for truth, said in ANSWERS]
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
    names, right = sorted(set(truths)), _weighed(_f1, truths, said)
    if isinstance(result, float) and result != result:
        raise Mistake("the result is nan: of a class that no answer names, hits over answers is 0 "
                      "over 0; its F1 is 0", inputs, result, right)
    plain = sum(_f1(name, truths, said) for name in names)
    known = [truth for truth, answer in zip(truths, said, strict=True) if answer in names]
    expect(result, right, inputs, [
        (_weighed(_f1_of_known, truths, said),
         "an answer that is not a class cost nothing: its sample is missed by the true class, so "
         "that a model cannot gain by making up a class"),
        (_weighed(_f1_of_known, truths, said, known),
         "the samples whose answer is not a class were left out: a model could then gain by "
         "making up a class when it is unsure; they are missed by the true class"),
        (plain / len(names),
         "that is the plain mean over the classes: weigh each by its share of the truths"),
        (plain / len({*truths, *said}),
         "classes that only answers name were counted as well: their share of the truths is 0"),
        (_weighed(_f1, truths, said, said),
         "the classes were weighed by how often they are answered: weigh them by how often they "
         "are true"),
        (sum(map(str.__eq__, truths, said)) / len(truths),
         "that is the accuracy, or the recall of the classes, weighed: false alarms have to count "
         "as well"),
        (_weighed(_precision, truths, said),
         "that is the precision of the classes, weighed: misses have to count as well"),
        (right / 2, "the 2 above the line is missing: twice the hits"),
        (100 * right, "that is a percentage: give a share between 0 and 1")])


def _weighed(score: Callable, truths: list[str], said: list[str],
             weights: Sequence[str] | None = None) -> float:
    """The mean of a score over the true classes, each weighed by how often it is in `weights`."""
    weights = truths if weights is None else weights
    names = set(truths)
    return sum(weights.count(name) * score(name, truths, said) for name in names) / sum(
        weights.count(name) for name in names)


def _f1(name: str, truths: list[str], said: list[str]) -> float:
    hits = sum(truth == answer == name for truth, answer in zip(truths, said, strict=True))
    return 2 * hits / (truths.count(name) + said.count(name))


def _f1_of_known(name: str, truths: list[str], said: list[str]) -> float:
    """As if the samples whose answer is not a class were not there."""
    known = [pair for pair in zip(truths, said, strict=True) if pair[1] in truths]
    return _f1(name, *map(list, zip(*known, strict=True)))


def _precision(name: str, truths: list[str], said: list[str]) -> float:
    hits = sum(truth == answer == name for truth, answer in zip(truths, said, strict=True))
    return hits / max(1, said.count(name))
