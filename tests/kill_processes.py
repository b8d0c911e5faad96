"""Kill one of two processes at random moments: the job must end at once and go on to equal losses.

    python tests/kill_processes.py --kills 40 --seed 0

Two processes run the job of `python -m vlm_utils train` on a small training, in copies and, every
second training, in shards. SIGKILL comes to one of them at a random time: of the whole job, or, for
three of four kills, of the steps and checkpoints alone. The other must end within 30 seconds, and
say so in a sentence if training had begun; the last checkpoint must be whole; and the same job, run
again and again, must reach the losses of a training that nobody disturbed, to the bit. As a
launcher does, this program sends SIGTERM to the one that is left. Needs fork, that is Linux or
macOS. The exit status is the number of failures.
"""

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import socket
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

os.environ |= {"OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1"}     # threads must not be forked
if sys.platform == "linux":
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"

import torch  # noqa: E402
from accelerate.state import AcceleratorState, PartialState  # noqa: E402
from small_runs import SETTINGS, small_dataset, small_model, small_processor  # noqa: E402
from transformers.utils.logging import disable_progress_bar  # noqa: E402

from vlm_utils.profiles import get_profile  # noqa: E402
from vlm_utils.scaling import Shards, job  # noqa: E402
from vlm_utils.sources.checkpoints import find_checkpoints  # noqa: E402
from vlm_utils.training import Copies, resume_run, start_run  # noqa: E402

LONGEST = 30        # seconds until a job has ended
SENTENCE = "another process of this training ended"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    disable_progress_bar()
    rng = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as place:
        failures = kill_again_and_again(options.kills, rng, Path(place))
    for failure in failures:
        print("  " + failure)
    sys.exit(len(failures))


def kill_again_and_again(kills: int, rng: random.Random, place: Path) -> list[str]:
    layouts = [Copies(), Shards()]
    whole, seconds, stepping = {}, {}, {}
    for layout in layouts:
        started = time.monotonic()
        assert run_two(place / "whole", layout)[0] == [0, 0]
        seconds[layout.name] = time.monotonic() - started
        stepping[layout.name] = seconds_of_steps(place / "whole")
        whole[layout.name] = losses_in(place / "whole")
        empty(place)
    failures, trainings, before, sentences, slowest = [], 0, 0, 0, 0.0
    for number in range(kills):
        layout, folder = layouts[trainings % 2], place / "run"
        try:
            in_steps = number % 4 > 0
            moment = rng.random() * (stepping if in_steps else seconds)[layout.name]
            codes, said, took, had_begun = run_two(
                folder, layout, rng.randrange(2), moment, in_steps)
            slowest = max(slowest, took)
            assert took < LONGEST, f"the other one lived on for {took:.0f} s"
            if had_begun and codes != [0, 0] and -signal.SIGKILL in codes and 1 in codes:
                assert SENTENCE in said, f"it said {said[-300:]!r}"
                sentences += 1
            assert "Traceback" not in said, said[-600:]
            found = find_checkpoints(folder)
            if found:
                found[0].verify()
            reached = found[0].steps if found else 0
            assert reached >= before, f"step {reached} after step {before}"
            before = reached
            if found and found[0].finished:
                trainings, before = trainings + 1, 0
                assert history_of(found[0]) == whole[layout.name], "other losses"
                empty(place)
        except Exception as error:
            failures.append(f"kill {number}, {layout.name}: {type(error).__name__}: {error}")
            before = 0
            empty(place)
    layout = layouts[trainings % 2]
    if kills and (run_two(place / "run", layout)[0] != [0, 0]
                  or losses_in(place / "run") != whole[layout.name]):
        failures.append("after the last kill: other losses")
    print(f"{kills - len(failures)} of {kills} kills left a whole checkpoint and equal losses; "
          f"{sentences} sentences of the process that was left; {trainings + bool(kills)} "
          f"trainings were finished in spite of them; a job ended at most {slowest:.1f} s after "
          "the kill")
    return failures


def run_two(folder: Path, layout: Copies, victim: int | None = None,
            after: float = 0.0, in_steps: bool = False) -> tuple[list[int], str, float, bool]:
    """Run the job in two processes; kill one of them after so many seconds.

    in_steps: the seconds count from the first step. Returns their exit codes, what they wrote to
    stderr, seconds from the kill to the end, and whether training had begun when it came.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    metrics = folder.with_name("metrics.jsonl")
    metrics.unlink(missing_ok=True)
    errors = [folder.with_name(f"errors-{rank}") for rank in range(2)]
    children = []
    for rank in range(2):
        child = os.fork()
        if not child:
            os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2",
                           "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
            be_a_process(job_of(folder, layout, metrics), errors[rank])
        children.append(child)
    had_begun = False
    if victim is not None:
        latest = time.monotonic() + 2 * LONGEST
        while in_steps and time.monotonic() < latest and not (
                metrics.exists() and metrics.stat().st_size):
            time.sleep(0.005)
        time.sleep(after)
        had_begun = metrics.exists() and metrics.stat().st_size > 0
        os.kill(children[victim], signal.SIGKILL)
    killed = time.monotonic()
    codes = wait_for(children)
    said = "".join(path.read_text(encoding="utf-8") for path in errors if path.exists())
    return codes, said, time.monotonic() - killed, had_begun


def wait_for(children: list[int]) -> list[int]:
    """Their exit codes, negative for a signal. When one has failed, SIGTERM to the other; what has
    not ended after LONGEST is killed."""
    codes: dict[int, int] = {}
    failed = None
    while len(codes) < len(children):
        for child in children:
            if child not in codes:
                ended, status = os.waitpid(child, os.WNOHANG)
                if ended:
                    codes[child] = os.waitstatus_to_exitcode(status)
        bad = any(codes.values())
        if bad and failed is None:
            failed = time.monotonic()
            time.sleep(0.1)                         # as often as torchrun looks
            for child in set(children) - codes.keys():
                os.kill(child, signal.SIGTERM)
        if failed is not None and time.monotonic() - failed > LONGEST:
            for child in set(children) - codes.keys():
                os.kill(child, signal.SIGKILL)
        time.sleep(0.01)
    return [codes[child] for child in children]


def job_of(folder: Path, layout: Copies, metrics: Path) -> job.Job:
    settings = replace(SETTINGS, checkpoint_every=2)
    return job.Job(get_profile("tiny"), {}, settings, frozenset(), folder, metrics, None, 0, 50,
                   False, False, layout)


def be_a_process(wanted: job.Job, errors: Path) -> None:
    """In a forked process: do the job, and never come back from here."""
    code = 99
    try:
        PartialState._reset_state()
        AcceleratorState._reset_state()
        with open(errors, "w", encoding="utf-8", buffering=1) as stream, \
                contextlib.redirect_stderr(stream), contextlib.redirect_stdout(stream), \
                patch.object(job, "prepare", small_run):
            code = job.run_job(wanted)
    finally:
        os._exit(code)


def small_run(wanted: job.Job):
    """In the place of job.prepare: a training that takes a moment."""
    if find_checkpoints(wanted.output):
        return resume_run(wanted.output, small_dataset(), layout=wanted.layout)
    return start_run(small_model(), small_processor(), small_dataset(), wanted.settings,
                     layout=wanted.layout)


def seconds_of_steps(folder: Path) -> float:
    lines = folder.with_name("metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return json.loads(lines[-1])["seconds"] + 0.3          # and of the last checkpoint


def losses_in(folder: Path) -> list[float]:
    lines = folder.with_name("metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["loss"] for line in lines]


def history_of(checkpoint) -> list[float]:
    state = torch.load(checkpoint.path / "training_state.pt", weights_only=True)
    return [row["loss"] for row in state["history"]]


def empty(place: Path) -> None:
    for path in place.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()


if __name__ == "__main__":
    main()
