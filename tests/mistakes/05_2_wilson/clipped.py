# says: this is the normal approximation
import math


def wilson(correct: int, total: int, z: float) -> tuple[float, float]:
    p = correct / total
    half = z * math.sqrt(p * (1 - p) / total)
    return max(0.0, p - half), min(1.0, p + half)
