# says: the bounds are swapped
import math


def wilson(correct: int, total: int, z: float) -> tuple[float, float]:
    p = correct / total
    shrink = 1 + z**2 / total
    centre = (p + z**2 / (2 * total)) / shrink
    half = z * math.sqrt(p * (1 - p) / total + z**2 / (4 * total**2)) / shrink
    return centre + half, centre - half
