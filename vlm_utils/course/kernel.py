"""Kernels that are watched: one that dies is noticed at once, and its memory is measured."""

from __future__ import annotations

import ast
import json
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from queue import Empty

import psutil
from jupyter_client.manager import KernelManager
from nbval.kernel import CURRENT_ENV_KERNEL_NAME, NbvalKernelspecManager, RunningKernel

from vlm_utils.course.conditions import isolation
from vlm_utils.course.limits import START_SECONDS, Limit
from vlm_utils.course.peak import PeakMemory

POLL = 0.25                 # seconds between two looks at a kernel that is silent
GRACE = 1.0                 # seconds that threads get to end with the cell that has started them
# Processes that multiprocessing keeps for as long as Python runs.
_HELPERS = ("multiprocessing.resource_tracker", "multiprocessing.forkserver")
_GUARD = "lesson_guard"     # the name in the kernel's sys.modules
_INSTALL = """exec(compile({source!r}, "{name}", "exec"), vars(__import__("sys").modules.setdefault(
    "{name}", type(__import__("sys"))("{name}"))))
__import__("sys").modules["{name}"].install(get_ipython(), {ended!r})"""
_REPORT = f'__import__("sys").modules["{_GUARD}"].report(grace={{grace}}, final={{final}})'


class KernelDied(Exception):
    """The process of a kernel has ended while, or before, it ran a cell."""


class LessonKernelManager(KernelManager):
    """Starts a kernel behind a command: the one that takes the network away, or none."""

    before: tuple[str, ...] = ()

    def format_kernel_cmd(self, extra_arguments=None) -> list[str]:
        return [*self.before, *super().format_kernel_cmd(extra_arguments)]


class WatchedKernel(RunningKernel):
    """nbval's kernel; waiting for a message ends when the kernel does, and memory is watched.

    kernel_name: by default, this Python's own. offline: without a network, where the system allows
    it. limit: what a cell may take; its scale stretches the time that the start may take.
    """

    def __init__(self, cwd: str, limit: Limit, kernel_name: str = CURRENT_ENV_KERNEL_NAME,
                 offline: bool = False, startup_timeout: float = START_SECONDS):
        self.folder = Path(tempfile.mkdtemp(prefix="lesson-"))
        self.km = LessonKernelManager(
            kernel_name=kernel_name, kernel_spec_manager=NbvalKernelspecManager())
        if offline and isolation():
            self.km.before = isolation()
            self.km.transport = "ipc"       # files, not ports: these cross the namespace's border
            self.km.connection_file = str(self.folder / "kernel.json")
        self.errors = self.folder / "stderr"
        self.ended = self.folder / "ended"      # written by the guard as the lesson's last act
        try:
            self._start(cwd, startup_timeout * limit.scale)
        except Exception:
            self.stop()
            raise

    def _start(self, cwd: str, timeout: float) -> None:
        with self.errors.open("wb") as errors:
            # Neither the user's history nor his log is a place for what lessons do.
            self.km.start_kernel(cwd=cwd, stderr=errors, extra_arguments=[
                "--HistoryManager.hist_file=:memory:", "--log-level=40"])
        self.memory = PeakMemory(self.km.provisioner.pid)
        self.kc = self.km.client()
        self.kc.start_channels()
        self.kc.wait_for_ready(timeout=timeout)
        self._ensure_iopub_up()
        source = (Path(__file__).parent / "guard.py").read_text(encoding="utf-8")
        self.kc.execute(_INSTALL.format(source=source, name=_GUARD, ended=str(self.ended)),
                        silent=True, allow_stdin=False)

    def execute(self, code: str, final: bool = False) -> str:
        """Send a cell; the id of its message. The reply brings the guard's report, unless the cell
        raises an error. No code: for the report only."""
        report = _REPORT.format(grace=GRACE if code else 0, final=final)
        return self.kc.execute(code, silent=not code, store_history=bool(code), allow_stdin=False,
                               stop_on_error=False, user_expressions={"guard": report})

    def get_message(self, stream, timeout=None):
        """The next message. Raises Empty after timeout seconds, KernelDied where none can come."""
        end = time.monotonic() + (float("inf") if timeout is None else timeout)
        while True:
            try:
                return super().get_message(stream, timeout=max(0, min(
                    POLL, end - time.monotonic())))
            except Empty:
                self.memory.sample()
                if not self.is_alive():
                    raise KernelDied(self.epitaph()) from None
                if time.monotonic() >= end:
                    raise

    def children(self) -> list[str]:
        """Names of the processes that the kernel has started and that run, Python's helpers not
        counted."""
        found = []
        for process in self.memory.children():
            try:
                if not any(helper in " ".join(process.cmdline()) for helper in _HELPERS):
                    found.append(process.name())
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue            # it has ended, perhaps without anybody having asked how
        return found

    def epitaph(self) -> str:
        """How the kernel died, as far as can be told from outside."""
        status = self._exit_status()
        how = "" if status is None else f" (exit status {status})"
        if status is not None and status < 0:
            how = f" ({signal.Signals(-status).name})"
            if -status == getattr(signal, "SIGKILL", None):
                how = " (SIGKILL: killed from outside, or by the system as memory ran out)"
        said = self.errors.read_text(errors="replace").strip().split("\n")[-1]
        return (f"the kernel died{how}; its peak memory was {self.memory.highest:.0f} MB"
                + (f"; it last wrote: {said[:200]}" if said else ""))

    def end(self, timeout: float) -> tuple[str, bool]:
        """Ask the kernel to end, and wait; "" if it ends well, else how it ended, and whether it
        was the lesson's: whether it came before all that the lesson had registered to run last.

        What comes after that is the end of Python itself and of the kernel's own sockets: about one
        kernel in some thousands aborts there, whatever it ran. Afterwards there is no kernel. One
        that does not end in time is left for `stop` to kill, and that is said.
        """
        self.kc.shutdown()
        until = time.monotonic() + timeout
        while self.is_alive() and time.monotonic() < until:
            time.sleep(POLL / 5)
        if self.is_alive():
            return f"told to end, the kernel still ran after {timeout:.0f} s", False
        # Windows gives other exit statuses to processes that are told to end.
        bad = sys.platform != "win32" and self._exit_status()
        return f"as it was told to end, {self.epitaph()}" if bad else "", not self.ended.exists()

    def stop(self) -> None:
        """End the kernel and remove its files; a second time, nothing happens."""
        if hasattr(self, "km") and hasattr(self, "kc"):
            super().stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _exit_status(self) -> int | None:
        process = self.km.provisioner.process if hasattr(self, "km") else None
        return None if process is None else process.returncode


def guard_report(reply: dict) -> dict | None:
    """What the guard said in the reply to a cell (see guard.report), or None if it said nothing."""
    answer = reply.get("user_expressions", {}).get("guard", {})
    text = answer.get("data", {}).get("text/plain")
    return None if text is None else json.loads(ast.literal_eval(text))
