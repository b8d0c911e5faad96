"""Peak memory of a process, this one or another, without torch: it must work where torch does not.

Memory is resident memory in MB (a million bytes).
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import psutil

MEGABYTE = 1_000_000


class PeakMemory:
    """Peak memory of a process: in all (`highest`) and since `begin` (`of_cell`).

    A new record is seen wherever the system keeps one: on Linux and Windows for every process, on
    other systems for this process only. Lower peaks, and those of other processes elsewhere, are
    seen only as far as `sample` is called at that moment.
    """

    def __init__(self, pid: int | None = None):
        self.process = psutil.Process(pid)
        self.highest = self.of_cell = 0.0

    def begin(self) -> None:
        """A new cell."""
        self.sample()
        self.of_cell = 0.0
        self.sample()

    def sample(self) -> None:
        """Look now. A process that has ended keeps the peaks that were seen."""
        try:
            now = self.process.memory_info()
        except psutil.NoSuchProcess:
            return
        record = max(now.rss, getattr(now, "peak_wset", 0), self._record()) / MEGABYTE
        self.of_cell = max(self.of_cell, now.rss / MEGABYTE,
                           record if record > self.highest else 0)
        self.highest = max(self.highest, record)

    def children(self) -> list[psutil.Process]:
        """The processes that this one, or one of them, has started; none once it has ended."""
        try:
            return self.process.children(recursive=True)
        except psutil.NoSuchProcess:
            return []

    def _record(self) -> int:
        """The system's own record, in bytes; 0 where it keeps none."""
        status = Path(f"/proc/{self.process.pid}/status")
        if status.is_file():
            lines = status.read_text().split("\n")
            return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
        if self.process.pid == os.getpid() and sys.platform == "darwin":
            import resource  # which Windows does not have
            return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss       # bytes, on macOS
        return 0


def peak_memory() -> float:
    """The most memory that this process has held so far.

    On Linux not getrusage's figure: that would include the parent's memory when this process began.
    """
    memory = PeakMemory()
    memory.sample()
    return memory.highest
