# says: that is a whole report
from collections.abc import Callable

from vlm_utils.memory import memory_report


def measure_tensors(work: Callable) -> float:
    before = memory_report()
    result = work()
    after = memory_report()
    del result
    return after - before
