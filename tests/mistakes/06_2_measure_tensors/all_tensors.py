# says: subtract the tensors that were alive before
from collections.abc import Callable

from vlm_utils.memory import memory_report


def measure_tensors(work: Callable) -> float:
    result = work()
    after = memory_report().tensors
    del result
    return after
