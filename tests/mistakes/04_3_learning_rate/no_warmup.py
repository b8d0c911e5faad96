# says: there is no warm-up
import math


def learning_rate(step: int, warmup_steps: int, steps: int,
                  peak: float) -> float:
    share = (step - warmup_steps) / (steps - warmup_steps)
    return peak * 0.5 * (1 + math.cos(math.pi * share))
