# says: the error has a cause with a traceback of its own
def forget_error(error: BaseException) -> None:
    error.__traceback__ = None
