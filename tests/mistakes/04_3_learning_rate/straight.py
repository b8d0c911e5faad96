# says: the rate falls in a straight line
def learning_rate(step: int, warmup_steps: int, steps: int,
                  peak: float) -> float:
    if step < warmup_steps:
        return peak * step / warmup_steps
    return peak * (steps - step) / (steps - warmup_steps)
