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
    started, or was asked for, another number, or it cannot be understood.
    """
    if asked is not None and asked < 1:
        raise ValueError(f"--processes is at least 1, not {asked}")
    if any(name in os.environ for name in _TOLD):
        if asked is not None and (there := int(os.environ.get("WORLD_SIZE", asked))) != asked:
            raise ValueError(f"--processes {asked}, and a launcher has started {there} processes "
                             "already: leave it out")
        return 1
    promised = _promised_by_accelerate()
    if promised is None and asked is None:
        raise ValueError("accelerate launch has started one process of several, as it does on a "
                         "CPU: say how many with --processes, or start them with torchrun")
    if asked is not None and promised not in (None, 1, asked):
        raise ValueError(f"--processes {asked}, and accelerate launch was asked for {promised}: "
                         "leave one of them out")
    return asked or promised


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


def _promised_by_accelerate() -> int | None:
    """How many processes `accelerate launch` was asked for, if it started one of several; None if
    that cannot be found out.

    A trap: on a CPU, `accelerate launch --cpu --num_processes 2` starts a single process, without a
    word, unless it is given an mpirun hostfile. What it was asked for is in its command line.
    Raises ValueError if that was for several machines, each of which would train alone.
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
        file = asked.config_file or default_config_file
        config = load_config_from_file(file) if os.path.isfile(file) else None
        processes, machines = (given if given is not None else getattr(config, name, None)
                               for name, given in (("num_processes", asked.num_processes),
                                                   ("num_machines", asked.num_machines)))
    except (StopIteration, OSError, psutil.Error):
        return None
    if (machines or 1) > 1:
        raise ValueError(f"on a CPU, accelerate launch does not start a training on {machines} "
                         "machines: start it with torchrun on each of them (cluster.md)")
    return processes
