# says: count its steps from the end of the warm-up
import math


def learning_rate(step: int, warmup_steps: int, steps: int,
                  peak: float) -> float:
    if step < warmup_steps:
        return peak * step / warmup_steps
    share = step / (steps - warmup_steps)
    return peak * 0.5 * (1 + math.cos(math.pi * share))
