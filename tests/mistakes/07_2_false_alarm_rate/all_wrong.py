# says: of a pair that did change, a wrong answer is no false alarm
def false_alarm_rate(predictions: list[str], answers: list[str]) -> float:
    wrong = [prediction != answer for prediction, answer
             in zip(predictions, answers, strict=True)]
    return sum(wrong) / len(answers)
