# says: share of real changes that were missed
def false_alarm_rate(predictions: list[str], answers: list[str]) -> float:
    nothing = "Nothing changed."
    changed = [p for p, a in zip(predictions, answers, strict=True)
               if a != nothing]
    return sum(p == nothing for p in changed) / len(changed)
