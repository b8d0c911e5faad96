# says: the error has a cause with a traceback of its own
import traceback


def forget_error(error: BaseException) -> None:
    traceback.clear_frames(error.__traceback__)
