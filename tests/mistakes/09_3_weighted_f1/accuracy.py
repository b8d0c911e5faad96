# says: that is the accuracy, or the recall of the classes
def weighted_f1(truths: list[str], predictions: list[str]) -> float:
    """F1 of each class, weighted by how often the class is true.

    Of a class: hits are answers that name it and are right, false alarms
    name it and are wrong, misses are its samples with any other answer,
    also one that is not a class. F1 is
    2 * hits / (2 * hits + false alarms + misses). The weight of a class
    is its share of the truths.
    """
    return sum(truth == prediction for truth, prediction
               in zip(truths, predictions, strict=True)) / len(truths)
