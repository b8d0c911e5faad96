# says: nothing was measured
from collections.abc import Callable

from vlm_utils.memory import memory_report


def measure_tensors(work: Callable) -> float:
    result = work()
    before = memory_report().tensors
    after = memory_report().tensors
    del result
    return after - before
