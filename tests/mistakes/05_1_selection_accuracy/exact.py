# says: only an answer that is the identifier alone was taken for right
def selection_accuracy(predictions: list[str], answers: list[str]) -> float:
    right = sum(prediction == answer
                for prediction, answer in zip(predictions, answers, strict=True))
    return right / len(answers)
