"""Kill and interrupt small trainings at random moments: each must go on to the very same losses.

    python tests/stop_training.py --kills 40 --interrupts 300 --seed 0

A moment is a random one of all calls and returns of Python functions in a training (the seed
decides which, so a failure can be repeated), or, for every second kill, a random time, which also
falls into the middle of a write. Needs fork, that is Linux or macOS. Prints a line per kind; the
exit status is the number of failures.
"""

import argparse
import contextlib
import io
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

os.environ |= {"OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1"}     # threads must not be forked

import torch  # noqa: E402
from small_runs import SETTINGS, losses_of, small_dataset, small_run  # noqa: E402
from transformers.utils.logging import disable_progress_bar  # noqa: E402

from vlm_utils.sources.checkpoints import find_checkpoints  # noqa: E402
from vlm_utils.training import resume_run  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=40)
    parser.add_argument("--interrupts", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    disable_progress_bar()
    rng = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "run"
        whole = losses_of(small_run(), folder)      # what is done once only is done now
        run, started = small_run(), time.perf_counter()
        calls = count_calls(lambda: losses_of(run, folder))
        seconds = time.perf_counter() - started
        print(f"a training of {SETTINGS.steps} steps makes {calls:,} calls and returns")
        failures = kill(options.kills, rng, folder, whole, calls, seconds)
        failures += interrupt(options.interrupts, rng, folder, whole, calls)
    sys.exit(failures)


def kill(count: int, rng: random.Random, folder: Path, whole: list[float], calls: int,
         seconds: float) -> int:
    """SIGKILL again and again until the training is done in spite of it; then the next."""
    empty(folder)
    failures, before, trainings = [], 0, 0
    for number in range(count):
        moment = rng.randrange(calls) if number % 2 else None
        child = os.fork()
        if not child:
            train_and_die(folder, moment)
        if moment is None:
            time.sleep(rng.random() * seconds)
            os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        try:
            found = find_checkpoints(folder)
            if found:
                found[0].verify()
            reached = found[0].steps if found else 0
            assert reached >= before, f"step {reached} after step {before}"
            before = reached
            if found and found[0].finished:
                trainings += 1
                assert quietly(lambda: go_on(folder)) == whole, "other losses"
                empty(folder)
                before = 0
        except Exception as error:
            failures.append(f"kill {number} ({moment}): {type(error).__name__}: {error}")
            empty(folder)
            before = 0
    if count:
        found = quietly(lambda: go_on(folder))
        if found != whole:
            failures.append("after the last kill: other losses")
    print(f"{count - len(failures)} of {count} kills left a whole checkpoint and equal losses; "
          f"{trainings + bool(count)} trainings were finished in spite of them")
    return report(failures)


def interrupt(count: int, rng: random.Random, folder: Path, whole: list[float], calls: int) -> int:
    """The stop button at a random moment, now and then twice; then on from the checkpoint, or, in
    the same program, with the run that was interrupted."""
    failures, stopped = [], 0
    for number in range(count):
        empty(folder)
        moments = [rng.randrange(calls)]
        if number % 5 == 4:
            moments.append(moments[0] + rng.randrange(calls // 20))
        run = small_run()
        try:
            losses = quietly(lambda run=run, moments=moments: at_moments(
                lambda: losses_of(run, folder), moments, interrupt_myself))
        except KeyboardInterrupt:
            losses = None               # before the first step, after the last, or pressed twice
        try:
            stopped += len(run.history) < SETTINGS.steps
            assert losses is None or losses == whole[:len(losses)], "other losses before"
            if number % 2 and losses is not None:
                assert quietly(lambda run=run: losses_of(run, folder)) == whole, "in memory"
            assert quietly(lambda: go_on(folder)) == whole, "from the checkpoint"
        except Exception as error:
            failures.append(f"interrupt {number} {moments}: {type(error).__name__}: {error}")
    print(f"{count - len(failures)} of {count} interrupts went on to equal losses; {stopped} of "
          "them before the last step")
    return report(failures)


# --- moments -------------------------------------------------------------------------------------

def at_moments(function, moments: list[int], act):
    """Call a function, and act at the given numbers of its calls and returns."""
    left, seen = sorted(moments), 0

    def watch(frame, event, argument):
        nonlocal seen
        seen += 1
        if left and seen > left[0]:
            left.pop(0)
            act()

    sys.setprofile(watch)
    try:
        return function()
    finally:
        sys.setprofile(None)


def count_calls(function) -> int:
    seen = 0

    def watch(frame, event, argument):
        nonlocal seen
        seen += 1

    sys.setprofile(watch)
    function()
    sys.setprofile(None)
    return seen


def interrupt_myself() -> None:
    signal.raise_signal(signal.SIGINT)


def kill_myself() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


# --- details -------------------------------------------------------------------------------------

def go_on(folder: Path) -> list[float]:
    """As somebody would who starts the program again: from the checkpoint, if there is one."""
    return losses_of(a_run(folder), folder)


def a_run(folder: Path):
    return resume_run(folder, small_dataset()) if find_checkpoints(folder) else small_run()


def train_and_die(folder: Path, moment: int | None) -> None:
    """In a forked process: train, be killed at a moment, and never come back from here."""
    try:
        run = quietly(lambda: a_run(folder))
        quietly(lambda: at_moments(lambda: losses_of(run, folder),
                                   [] if moment is None else [moment], kill_myself))
    finally:
        os._exit(0)


def quietly(function):
    with contextlib.redirect_stdout(io.StringIO()):
        return function()


def empty(folder: Path) -> None:
    for path in folder.parent.iterdir():
        shutil.rmtree(path)


def report(failures: list[str]) -> int:
    for failure in failures:
        print("  " + failure)
    return len(failures)


if __name__ == "__main__":
    main()
