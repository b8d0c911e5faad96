# says: an answer that names two images was taken for right
def selection_accuracy(predictions: list[str], answers: list[str]) -> float:
    right = sum(answer in prediction
                for prediction, answer in zip(predictions, answers, strict=True))
    return right / len(answers)
