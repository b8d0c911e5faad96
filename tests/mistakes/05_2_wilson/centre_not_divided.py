# says: the centre was not divided
import math


def wilson(correct: int, total: int, z: float) -> tuple[float, float]:
    p = correct / total
    centre = p + z**2 / (2 * total)
    half = z * math.sqrt(
        p * (1 - p) / total + z**2 / (4 * total**2)) / (1 + z**2 / total)
    return centre - half, centre + half
