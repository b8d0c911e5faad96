# says: that is the number of wrong ones
import re


def selection_accuracy(predictions: list[str], answers: list[str]) -> float:
    wrong = 0
    for prediction, answer in zip(predictions, answers, strict=True):
        wrong += set(re.findall(r"<image_\d+>", prediction)) != {answer}
    return wrong
