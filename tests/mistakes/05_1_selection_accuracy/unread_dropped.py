# says: answers that cannot be parsed were dropped
import re


def selection_accuracy(predictions: list[str], answers: list[str]) -> float:
    right = counted = 0
    for prediction, answer in zip(predictions, answers, strict=True):
        named = set(re.findall(r"<image_\d+>", prediction))
        if not named:
            continue
        counted += 1
        right += named == {answer}
    return right / counted
