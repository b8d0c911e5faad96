import math


def wilson(correct: int, total: int, z: float) -> tuple[float, float]:
    """The Wilson interval (low, high) of a share, z standard errors wide.

    With p the share: its centre is p + z**2 / (2 * total), its half width
    z * sqrt(p * (1 - p) / total + z**2 / (4 * total**2)), both divided by
    1 + z**2 / total.
    """
    p = correct / total
    shrink = 1 + z**2 / total
    centre = (p + z**2 / (2 * total)) / shrink
    half = z / shrink * math.sqrt(
        p * (1 - p) / total + z**2 / (4 * total**2))
    return centre - half, centre + half
