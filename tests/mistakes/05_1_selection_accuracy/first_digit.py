# says: only the first digit was read
import re


def selection_accuracy(predictions: list[str], answers: list[str]) -> float:
    right = 0
    for prediction, answer in zip(predictions, answers, strict=True):
        named = set(re.findall(r"<image_(\d)", prediction))
        right += named == set(re.findall(r"\d", answer))
    return right / len(answers)
