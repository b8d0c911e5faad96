def false_alarm_rate(predictions: list[str], answers: list[str]) -> float:
    """Share of the pairs without a change in which one is reported.

    Without a change, the true answer is "Nothing changed." Any other
    prediction for such a pair is a false alarm.
    """
    still = [prediction for prediction, answer
             in zip(predictions, answers, strict=True)
             if answer == "Nothing changed."]
    alarms = [text for text in still if text != "Nothing changed."]
    return len(alarms) / len(still)
