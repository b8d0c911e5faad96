# says: answers that cannot be parsed were dropped
import re


def selection_accuracy(predictions: list[str], answers: list[str]) -> float:
    named = [set(re.findall(r"<image_\d+>", text)) for text in predictions]
    clear = [(n, a) for n, a in zip(named, answers, strict=True) if len(n) == 1]
    return sum(n == {a} for n, a in clear) / len(clear)
