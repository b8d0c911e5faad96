# says: this is the process
from collections.abc import Callable

from vlm_utils.memory import memory_report


def measure_tensors(work: Callable) -> float:
    before = memory_report().process
    result = work()
    after = memory_report().process
    del result
    return after - before
