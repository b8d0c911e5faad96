# says: the rate becomes negative
import math


def learning_rate(step: int, warmup_steps: int, steps: int,
                  peak: float) -> float:
    if step < warmup_steps:
        return peak * step / warmup_steps
    share = (step - warmup_steps) / (steps - warmup_steps)
    return peak * math.cos(math.pi * share)
