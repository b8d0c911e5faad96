# says: freed before the second measurement
from collections.abc import Callable

from vlm_utils.memory import memory_report


def measure_tensors(work: Callable) -> float:
    before = memory_report().tensors
    work()
    return memory_report().tensors - before
