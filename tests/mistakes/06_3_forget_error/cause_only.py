# says: the error was raised while another one was handled
def forget_error(error: BaseException) -> None:
    while error is not None:
        error.__traceback__ = None
        error = error.__cause__
