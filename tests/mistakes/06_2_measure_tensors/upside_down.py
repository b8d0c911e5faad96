# says: the difference is upside down
from collections.abc import Callable

from vlm_utils.memory import memory_report


def measure_tensors(work: Callable) -> float:
    before = memory_report().tensors
    result = work()
    after = memory_report().tensors
    del result
    return before - after
