# says: the centre is right and the width is not
import math


def wilson(correct: int, total: int, z: float) -> tuple[float, float]:
    p = correct / total
    centre = (p + z**2 / (2 * total)) / (1 + z**2 / total)
    half = z * math.sqrt(p * (1 - p) / total)
    return centre - half, centre + half
