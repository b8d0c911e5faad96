"""Kernels that are watched: one that dies is noticed at once, and its memory is measured."""

from __future__ import annotations

import shutil
import signal
import tempfile
import time
from pathlib import Path
from queue import Empty

import psutil
from jupyter_client.manager import KernelManager
from nbval.kernel import NbvalKernelspecManager, RunningKernel

from vlm_utils.course.conditions import isolation

POLL = 0.25                 # seconds between two looks at a kernel that is silent
MEGABYTE = 1_000_000
_GPU_PEAK = ("(lambda torch: torch.cuda.max_memory_reserved() if torch is not None and "
             "torch.cuda.is_initialized() else 0)(__import__('sys').modules.get('torch'))")


class KernelDied(Exception):
    """The process of a kernel has ended while, or before, it ran a cell."""


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
