# says: the message is gone
def forget_error(error: BaseException) -> None:
    while error is not None:
        error.__traceback__ = None
        error.args = ()
        error = error.__cause__ or error.__context__
