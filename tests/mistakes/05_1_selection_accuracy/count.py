# says: that is a count
import re


def selection_accuracy(predictions: list[str], answers: list[str]) -> float:
    right = 0
    for prediction, answer in zip(predictions, answers, strict=True):
        right += set(re.findall(r"<image_\d+>", prediction)) == {answer}
    return right
