from collections.abc import Callable

from vlm_utils.memory import memory_report


def measure_tensors(work: Callable) -> float:
    """MB of tensors that are alive because of work(), while its result is.

    work: a function without arguments that returns what it has made.
    """
    before = memory_report().tensors
    result = work()
    after = memory_report().tensors
    del result  # kept alive until here: without a name it is freed at once
    return after - before
