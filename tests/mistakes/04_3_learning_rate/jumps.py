# says: the rate jumps down when the warm-up is over
import math


def learning_rate(step: int, warmup_steps: int, steps: int,
                  peak: float) -> float:
    if step < warmup_steps:
        return peak * step / warmup_steps
    return peak * 0.5 * (1 + math.cos(math.pi * step / steps))
