# says: there is no warm-up: the rate starts at its peak
import math


def learning_rate(step: int, warmup_steps: int, steps: int,
                  peak: float) -> float:
    return peak * 0.5 * (1 + math.cos(math.pi * step / steps))
