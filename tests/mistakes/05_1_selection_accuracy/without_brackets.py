# says: only the first digit was read
def selection_accuracy(predictions: list[str], answers: list[str]) -> float:
    right = 0
    for prediction, answer in zip(predictions, answers, strict=True):
        right += answer[:-1] in prediction
    return right / len(answers)
