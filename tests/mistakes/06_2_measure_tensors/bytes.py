# says: these are bytes
from collections.abc import Callable

from vlm_utils.memory import memory_report


def measure_tensors(work: Callable) -> float:
    before = memory_report().tensors
    result = work()
    after = memory_report().tensors
    del result
    return (after - before) * 1_000_000
