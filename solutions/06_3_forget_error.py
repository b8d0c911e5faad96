def forget_error(error: BaseException) -> None:
    """Free what the tracebacks of an error hold, and keep its message.

    Somebody else still holds the error itself. It may have been raised
    from another error, which has a traceback of its own.
    """
    while error is not None:
        error.__traceback__ = None
        error = error.__cause__ or error.__context__
