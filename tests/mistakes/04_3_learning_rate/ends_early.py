# says: the fall ends one step early
import math


def learning_rate(step: int, warmup_steps: int, steps: int,
                  peak: float) -> float:
    if step < warmup_steps:
        return peak * step / warmup_steps
    share = (step - warmup_steps) / (steps - warmup_steps - 1)
    return peak * 0.5 * (1 + math.cos(math.pi * share))
