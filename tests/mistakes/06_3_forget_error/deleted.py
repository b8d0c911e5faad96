# says: del removes your name for the error
def forget_error(error: BaseException) -> None:
    del error
