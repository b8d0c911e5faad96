# says: collecting frees nothing
import gc


def forget_error(error: BaseException) -> None:
    gc.collect()
