# says: the classes were weighed by how often they are answered
def weighted_f1(truths: list[str], predictions: list[str]) -> float:
    """F1 of each class, weighted by how often the class is true.

    Of a class: hits are answers that name it and are right, false alarms
    name it and are wrong, misses are its samples with any other answer,
    also one that is not a class. F1 is
    2 * hits / (2 * hits + false alarms + misses). The weight of a class
    is its share of the truths.
    """
    total = 0.0
    for name in set(truths):
        hits = sum(truth == prediction == name for truth, prediction
                   in zip(truths, predictions, strict=True))
        named, there = predictions.count(name), truths.count(name)
        total += named * 2 * hits / (named + there)
    return total / sum(map(predictions.count, set(truths)))
