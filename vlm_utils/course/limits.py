"""What a cell and a lesson may take: time, stretched on a slow or busy machine, and memory.

A fixed piece of work is timed before each lesson, and again when a cell has used up its time. A
machine that takes twice as long for it gets twice the time: it is slow, and nothing is wrong.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np

from vlm_utils.profiles import Profile

# Seconds for one cell, for a kernel to start, and for output to arrive after its cell has ended;
# all on the machine on which the reference step took REFERENCE_SECONDS: 2 cores, nothing else.
CELL_SECONDS = {"tiny": 1800, "full": 3600}
START_SECONDS = 120
# GB of memory that each lesson takes at most: the column "peak MB" of the table that ends
#   python -m vlm_utils check                                       (tiny, 2 CPU cores)
#   VLM_PROFILE=full VLM_SUBSET=64 python -m vlm_utils check        (full, on up to 64 images)
# and for 04 and 05 of the whole full profile, whose batches are larger, the most of
#   python benchmarks/full_memory.py --fewer 8                      (4.2, 1.8 and 2.4 GB)
# with what exceeds the weights, gradients and the optimizer's numbers taken eight times, and for 04
# the 2 GB more that its notebook holds. 01 has half a GB more for its eight timed answers. 07 took
# 1.5 on a subset; on all of the full profile, which asks it more questions at a time, it was not
# measured: 3.0 is an estimate, and so are the last numbers of 08, 09 and 10, taken from those of
# 04. 10 starts two processes beside its kernel (0.8 GB), and what they take is an estimate.
# All on a CPU, in float32: on a GPU in half precision, activations are smaller.
LESSON_GB = {
    "tiny": {"01": 0.7, "02": 0.8, "03": 0.7, "04": 1.7, "05": 0.9, "06": 1.0,
             "07": 1.0, "08": 1.5, "09": 1.4, "10": 2.2},
    "full on a subset": {"01": 3.0, "02": 1.2, "03": 1.9, "04": 7.8, "05": 6.0, "06": 7.0,
                         "07": 1.6, "08": 6.5, "09": 7.6, "10": 7.4},
    "full": {"01": 3.8, "02": 1.2, "03": 1.9, "04": 15, "05": 10.5, "06": 7.0, "07": 3.0,
             "08": 17, "09": 17, "10": 12}}
SMALL_SUBSET = 64           # images, up to which a subset's batches are as small as those measured
OUTPUT_SECONDS = 60
REFERENCE_SECONDS = 0.25
STEPS = 300                 # of the reference step
MOST = 20                   # a machine that seems slower than this is not waited for


@dataclass(frozen=True)
class Limit:
    """Seconds that a cell may take, and the scale in them: 1 on the reference machine or a faster
    one, 2 on one of half its speed. measured: False for a limit that somebody has set, which is
    taken as it is."""

    seconds: float
    scale: float = 1.0
    measured: bool = False

    @classmethod
    def of(cls, profile: str) -> Limit:
        """What a cell of this profile ("tiny" or "full") may take on this machine, now."""
        scale = machine_scale()
        return cls(CELL_SECONDS[profile] * scale, scale, measured=True)

    def again(self) -> Limit:
        """The same limit by the machine's present speed; never a shorter one."""
        if not self.measured:
            return self
        scale = max(self.scale, machine_scale())
        return Limit(self.seconds / self.scale * scale, scale, measured=True)

    def __str__(self) -> str:
        if not self.measured:
            return f"{self.seconds:.0f} s"
        return f"{self.seconds:.0f} s = {self.seconds / self.scale:.0f} x {self.scale:.1f}"


def lesson_memory(profile: Profile) -> dict[str, float]:
    """GB that each lesson of a profile takes at most; tiny takes about the same on a subset."""
    part = profile.name != "tiny" and profile.subset and profile.subset <= SMALL_SUBSET
    return LESSON_GB[f"{profile.name} on a subset" if part else profile.name]


def machine_scale() -> float:
    """How many times slower this machine is, now, than the reference machine; at least 1."""
    return min(max(1.0, reference_step() / REFERENCE_SECONDS), MOST)


def reference_step() -> float:
    """Seconds for a little of what lessons do: products of small matrices, and Python's own work.

    Time on the clock, not of the processor: a machine that is busy with something else is slow.
    """
    matrix = np.full((192, 192), 0.5, dtype=np.float32)
    matrix @ matrix                                     # the first product starts threads
    started = time.perf_counter()
    for _ in range(STEPS):
        matrix = np.tanh(matrix @ matrix)
        sum(number * number for number in range(2000))
    return time.perf_counter() - started
