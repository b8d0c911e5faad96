# says: the rate never falls
def learning_rate(step: int, warmup_steps: int, steps: int,
                  peak: float) -> float:
    return peak * min(1.0, step / warmup_steps)
