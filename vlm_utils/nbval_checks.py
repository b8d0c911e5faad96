"""A pytest plugin that makes nbval's green mean what an instructor takes it to mean.

nbval 0.11 waits for a dead kernel until the cell's timeout, passes a failed magic, runs on after
a failed cell, and compares nothing where nothing is stored. Here each of these is a failure that
says what happened, what comes after it is "not run", and each cell's seconds and peak memory are
kept for a table (`check_report`). Where the system allows it, kernels have no network.

pyproject.toml loads it; elsewhere: `pytest -p vlm_utils.nbval_checks --nbval-lax notebooks`.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from functools import cache
from pathlib import Path
from queue import Empty

import psutil
import pytest
from jupyter_client.manager import KernelManager
from nbval.kernel import CURRENT_ENV_KERNEL_NAME, NbvalKernelspecManager, RunningKernel
from nbval.plugin import IPyNbCell, IPyNbFile

from vlm_utils import check_report, profiles
from vlm_utils.notebooks import is_progress

POLL = 0.25                 # seconds between two looks at a kernel that is silent
PATIENCE = 60               # seconds for output behind its reply; nbval's 5 fail on a busy machine
MEGABYTE = 1_000_000
_GPU_PEAK = ("(lambda torch: torch.cuda.max_memory_reserved() if torch is not None and "
             "torch.cuda.is_initialized() else 0)(__import__('sys').modules.get('torch'))")


class KernelDied(Exception):
    """The process of a kernel has ended while, or before, it ran a cell."""


@cache
def isolation() -> tuple[str, ...]:
    """The command in front of a kernel's that takes its network away; empty where none may.

    A new network namespace has no interface but a loopback that is down. Linux gives one to the
    superuser, and on most systems to everybody who makes a user namespace with it.
    """
    if shutil.which("unshare") is None:
        return ()
    for options in (("--net",), ("--user", "--map-current-user", "--net"),
                    ("--user", "--map-root-user", "--net")):
        tried = subprocess.run(["unshare", *options, "true"], capture_output=True, check=False)
        if tried.returncode == 0:
            return ("unshare", *options)
    return ()


class LessonKernelManager(KernelManager):
    """Starts a kernel behind a command: the one that takes the network away, or none."""

    before: tuple[str, ...] = ()

    def format_kernel_cmd(self, extra_arguments=None) -> list[str]:
        return [*self.before, *super().format_kernel_cmd(extra_arguments)]


class WatchedKernel(RunningKernel):
    """nbval's kernel; waiting for a message ends when the kernel does, and memory is watched."""

    def __init__(self, kernel_name: str, cwd: str, startup_timeout: float, offline: bool):
        self.reply: dict = {}
        self.folder = Path(tempfile.mkdtemp(prefix="lesson-"))
        self.km = LessonKernelManager(
            kernel_name=kernel_name, kernel_spec_manager=NbvalKernelspecManager())
        if offline and isolation():
            self.km.before = isolation()
            self.km.transport = "ipc"       # files, not ports: these cross the namespace's border
            self.km.connection_file = str(self.folder / "kernel.json")
        self.errors = self.folder / "stderr"
        try:
            self._start(cwd, startup_timeout)
        except Exception:
            self.stop()
            raise

    def _start(self, cwd: str, timeout: float) -> None:
        with self.errors.open("wb") as errors:
            self.km.start_kernel(cwd=cwd, stderr=errors)
        self.memory = PeakMemory(self.km.provisioner.pid)
        self.kc = self.km.client()
        self.kc.start_channels()
        self.kc.wait_for_ready(timeout=timeout)
        self._ensure_iopub_up()

    def execute_cell_input(self, cell_input, allow_stdin=None):
        """As nbval's; the reply also brings the peak of the GPU's memory, in bytes."""
        self.reply = {}
        return self.kc.execute(cell_input, store_history=False, allow_stdin=allow_stdin,
                               stop_on_error=False, user_expressions={"gpu": _GPU_PEAK})

    def get_message(self, stream, timeout=None):
        """The next message. Raises Empty after timeout seconds, KernelDied where none can come."""
        end = time.monotonic() + (float("inf") if timeout is None else timeout)
        while True:
            try:
                message = super().get_message(stream, timeout=max(0, min(
                    POLL, end - time.monotonic())))
            except Empty:
                self.memory.sample()
                if not self.is_alive():
                    raise KernelDied(self.epitaph()) from None
                if time.monotonic() >= end:
                    raise
            else:
                if message["msg_type"] == "execute_reply":
                    self.reply = message["content"]
                return message

    def epitaph(self) -> str:
        """How the kernel died, as far as can be told from outside."""
        status = self.km.provisioner.process.returncode if hasattr(self, "km") else None
        how = "" if status is None else f" (exit status {status})"
        if status is not None and status < 0:
            how = f" ({signal.Signals(-status).name})"
            if -status == getattr(signal, "SIGKILL", None):
                how = " (SIGKILL: killed from outside, or by the system as memory ran out)"
        said = self.errors.read_text(errors="replace").strip().split("\n")[-1]
        return (f"the kernel died{how}; its peak memory was {self.memory.highest:.0f} MB"
                + (f"; it last wrote: {said[:200]}" if said else ""))

    def gpu_peak(self) -> float:
        """Peak memory that torch has taken on the GPU until the last cell's end, in MB."""
        value = self.reply.get("user_expressions", {}).get("gpu", {})
        return int(value.get("data", {}).get("text/plain", 0)) / MEGABYTE

    def stop(self) -> None:
        """End the kernel and remove its files; a second time, nothing happens."""
        if hasattr(self, "km") and hasattr(self, "kc"):
            super().stop()
        shutil.rmtree(self.folder, ignore_errors=True)


class PeakMemory:
    """Peak resident memory of a process, in MB: in all (`highest`) and of a cell (`of_cell`).

    A new record is seen wherever the system keeps one (Linux, Windows); lower peaks, and all on
    other systems, only as far as `sample` is called at that moment.
    """

    def __init__(self, pid: int):
        self.process = psutil.Process(pid)
        self.highest = self.of_cell = 0.0

    def begin(self) -> None:
        """A new cell."""
        self.sample()
        self.of_cell = 0.0
        self.sample()

    def sample(self) -> None:
        try:
            now = self.process.memory_info()
        except psutil.NoSuchProcess:
            return
        record = max(now.rss, getattr(now, "peak_wset", 0), self._linux_record()) / MEGABYTE
        self.of_cell = max(self.of_cell, now.rss / MEGABYTE,
                           record if record > self.highest else 0)
        self.highest = max(self.highest, record)

    def _linux_record(self) -> int:
        status = Path(f"/proc/{self.process.pid}/status")
        lines = status.read_text().split("\n") if status.is_file() else []
        return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


class LessonFile(IPyNbFile):
    """A notebook whose kernel is watched. failed: number of the first cell that failed."""

    failed: int | None = None
    start_error: Exception | None = None

    def collect(self):
        """nbval's cells, numbered from 1 as in JupyterLab after "run all"."""
        comparable = stored_outputs_are_meant()
        for cell in super().collect():
            number = cell.cell_num + 1
            cell.options["check"] = cell.options["check"] and comparable
            yield LessonCell.from_parent(self, name=f"Cell {number}", cell_num=number,
                                         cell=cell.cell, options=cell.options)

    def setup(self) -> None:
        option = self.config.option
        name = (CURRENT_ENV_KERNEL_NAME if option.nbval_current_env else option.nbval_kernel_name
                or self.nb.metadata.get("kernelspec", {}).get("name", "python"))
        try:
            self.kernel = WatchedKernel(
                name, str(self.path.parent), option.nbval_kernel_startup_timeout,
                offline=not option.lesson_network)
        except Exception as error:          # one failure, of the first cell, and not one a cell
            self.start_error = error
        self.setup_sanitize_files()

    def teardown(self) -> None:
        if self.kernel is not None:
            self.kernel.stop()


class LessonCell(IPyNbCell):
    """A cell that fails as soon, and only if, something is wrong with itself."""

    def setup(self) -> None:
        self.output_timeout = PATIENCE
        self.user_properties.append(("cell", self.cell_num))
        self.user_properties.append(("source", self.cell.source.strip().split("\n")[0][:76]))
        if self.parent.failed is not None:
            pytest.skip(f"not run: cell {self.parent.failed} failed")

    def runtest(self) -> None:
        kernel, started = self.parent.kernel, time.perf_counter()
        try:
            if self.parent.start_error is not None:
                self.raise_cell_error(f"the kernel did not start: {self.parent.start_error}")
            kernel.memory.begin()
            self._run()
        except Exception as error:
            self.parent.failed = self.cell_num
            self.user_properties.append(("failure", str(error)))
            raise
        finally:
            self.user_properties.append(("seconds", round(time.perf_counter() - started, 3)))
            if kernel is not None:
                kernel.memory.sample()
                self.user_properties += [("peak_mb", round(kernel.memory.of_cell, 1)),
                                         ("gpu_mb", round(kernel.gpu_peak(), 1))]

    def _run(self) -> None:
        kernel = self.parent.kernel
        if self.options["check"] and self.cell.execution_count is None:
            self.raise_cell_error("this cell is to be compared, but no output of it is stored")
        try:
            if not kernel.is_alive():
                raise KernelDied(kernel.epitaph())
            super().runtest()
        except KernelDied as death:
            self.raise_cell_error(str(death))
        # A failed magic writes to stderr and shows no error: only the reply tells.
        if kernel.reply.get("status") == "error" and not self.options["check_exception"]:
            self.raise_cell_error(describe_error(kernel.reply))

    def compare_outputs(self, test, ref, skip_compare=None):
        """As nbval's, progress bars left out: they are not stored either."""
        return super().compare_outputs(*([out for out in outputs if not is_progress(out)]
                                         for outputs in (test, ref)), skip_compare)

    def raise_cell_error(self, message, *args, **kwargs):
        """Names the error of a cell in the message, which nbval leaves to the traceback."""
        errors = [out for out in self.test_outputs or () if out.output_type == "error"]
        if errors and message == "Cell execution caused an exception":
            message = describe_error(errors[-1])
        super().raise_cell_error(message, *args, **kwargs)


def describe_error(error: dict) -> str:
    """One line for an error's name and value; where memory ran out, it says so first."""
    text = f"{error.get('ename', 'error')}: {error.get('evalue', '')}"
    short = any(word in text for word in ("MemoryError", "OutOfMemory", "can't allocate memory"))
    return ("out of memory: " if short else "") + text


def stored_outputs_are_meant() -> bool:
    """Outputs are stored for the tiny profile with TinyEarth's images, and for nothing else."""
    return profiles.get_profile().name == "tiny" and not os.environ.get("VLM_IMAGES")


# --- hooks -------------------------------------------------------------------------------------

def pytest_addoption(parser) -> None:
    group = parser.getgroup("nbval")
    group.addoption("--lesson-html", metavar="FILE", help="write the table of the lessons to FILE")
    group.addoption("--lesson-network", action="store_true",
                    help="let the lessons use the network, which is otherwise cut off on Linux")


def pytest_configure(config) -> None:
    config.pluginmanager.register(check_report.Collector(config), "lesson-report")


@pytest.hookimpl(wrapper=True)
def pytest_collect_file(file_path, parent):
    """nbval's own notebooks become ours."""
    found = yield
    return [LessonFile.from_parent(parent, path=file_path) if type(node) is IPyNbFile else node
            for node in found]
