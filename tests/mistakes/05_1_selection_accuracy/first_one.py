# says: an answer that names two images was taken for right
import re


def selection_accuracy(predictions: list[str], answers: list[str]) -> float:
    right = 0
    for prediction, answer in zip(predictions, answers, strict=True):
        found = re.search(r"<image_\d+>", prediction)
        right += bool(found) and found[0] == answer
    return right / len(answers)
