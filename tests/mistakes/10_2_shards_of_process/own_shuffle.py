# says: so the number of the process must not decide
import random


def shards_of_process(shards: list[str], process: int, processes: int,
                      epoch: int) -> list[str]:
    """The shards that a process reads in an epoch, in its order.

    process: 0 to processes - 1. Over all processes, each shard once; no
    process has more than one shard more than another. The order differs
    between epochs, and is the same whenever the function is asked again.
    """
    order = random.Random(f"{epoch} {process}").sample(shards, len(shards))
    return order[process::processes]
