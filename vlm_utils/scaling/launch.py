"""Starting the processes of a job where no launcher has: `train --processes 2`."""

from __future__ import annotations

import os
import signal
import sys

import psutil

from vlm_utils.scaling.processes import launch_environment

# By one of these, a launcher tells a process how many there are.
_TOLD = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")


def processes_to_start(asked: int | None) -> int:
    """How many processes this one is to start for the job; 1 if it is to do the job itself.

    asked: --processes. Raises ValueError if that is not a number of processes, or a launcher has
    already started the processes, or it said that it would and cannot be understood.
    """
    told = any(name in os.environ for name in _TOLD)
    if asked is None:
        return 1 if told else _promised_by_accelerate()
    if asked < 1:
        raise ValueError(f"--processes is at least 1, not {asked}")
    if told and int(os.environ.get("WORLD_SIZE", asked)) != asked:
        raise ValueError(f"--processes {asked}, and a launcher has started "
                         f"{os.environ['WORLD_SIZE']} processes already: leave it out")
    return 1 if told else asked


def start_processes(processes: int, arguments: list[str]) -> int:
    """Run `python -m vlm_utils` with these arguments in several processes, as torchrun does.

    Returns the exit status: 0 if all of them ended well.
    """
    from torch.distributed import run
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    os.environ.update(launch_environment(processes))
    try:
        run.main(["--standalone", "--nproc-per-node", str(processes), "-m", "vlm_utils",
                  *arguments])
    except SignalException as error:
        return 128 + error.sigval
    except ChildFailedError as error:
        codes = {rank: failure.exitcode for rank, failure in error.failures.items()}
        for rank, code in codes.items():
            if code < 0 and -code != signal.SIGTERM:    # SIGTERM is how the launcher ends the rest
                print(f"process {rank} of {processes} was ended by {signal.Signals(-code).name}",
                      file=sys.stderr, flush=True)
        return max(code for code in codes.values()) if max(codes.values()) > 0 else 1
    return 0


def _promised_by_accelerate() -> int:
    """How many processes `accelerate launch` was asked for, if it started one of several.

    A trap: on a CPU, `accelerate launch --cpu --num_processes 2` starts a single process, without a
    word, unless it is given an mpirun hostfile. What it was asked for is in its command line.
    """
    if os.environ.get("ACCELERATE_USE_CPU", "").lower() not in ("true", "1") \
            or "MASTER_PORT" not in os.environ:
        return 1
    from accelerate.commands.config.config_args import default_config_file, load_config_from_file
    from accelerate.commands.launch import launch_command_parser
    try:
        line = psutil.Process().parent().cmdline()
        start = next(i for i, word in enumerate(line) if word.endswith(("launch", "launch.py")))
        asked = launch_command_parser().parse_args(line[start + 1:])
        if asked.num_processes is not None:
            return asked.num_processes
        return load_config_from_file(asked.config_file or default_config_file).num_processes
    except (StopIteration, AttributeError, OSError, psutil.Error):
        raise ValueError("accelerate launch has started one process of several, as it does on a "
                         "CPU: say how many with --processes, or start them with torchrun"
                         ) from None
