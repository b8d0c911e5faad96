# says: it moves from the share towards one half
import math


def wilson(correct: int, total: int, z: float) -> tuple[float, float]:
    p = correct / total
    shrink = 1 + z**2 / total
    half = z * math.sqrt(p * (1 - p) / total + z**2 / (4 * total**2)) / shrink
    return p - half, p + half
