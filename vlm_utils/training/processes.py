"""What one process of several does for all of them."""

from __future__ import annotations

from collections.abc import Callable

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list


class OtherProcessFailed(RuntimeError):
    """Another process of the same training could not go on; the message is what it said."""


def in_first_process(accelerator: Accelerator, action: Callable):
    """Call an action in process 0 alone and return there what it returns, once all know how it
    went.

    Raises what it raised; in the other processes OtherProcessFailed. Without this, one process
    would end with an error and the others would wait for it.
    """
    result, error = None, None
    if accelerator.is_main_process:
        try:
            result = action()
        except Exception as raised:
            error = raised
    if accelerator.num_processes > 1:
        (said,) = broadcast_object_list([error and f"{type(error).__name__}: {error}"])
        if said and error is None:
            raise OtherProcessFailed(said)
    if error is not None:
        raise error
    return result
