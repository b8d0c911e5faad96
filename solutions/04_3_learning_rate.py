import math


def learning_rate(step: int, warmup_steps: int, steps: int,
                  peak: float) -> float:
    """The rate at a step: up in a straight line, down half a cosine.

    It is 0 at step 0, reaches peak at warmup_steps, and is 0 again at the
    last of the steps.
    """
    if step < warmup_steps:
        return peak * step / warmup_steps
    share = (step - warmup_steps) / (steps - warmup_steps)
    return peak * 0.5 * (1 + math.cos(math.pi * share))
