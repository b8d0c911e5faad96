"""Peak memory, of this process and of another one."""

import subprocess
import sys

import pytest

from vlm_utils.course.peak import MEGABYTE, PeakMemory, peak_memory

TAKE = "x = bytearray(200_000_000); del x; print(1, flush=True); input()"


def test_what_was_freed_again_counts_where_the_system_remembers_it():
    if sys.platform not in ("linux", "win32", "darwin"):
        pytest.skip("no record is kept")
    before = peak_memory()
    block = bytearray(b"x") * int((before + 100) * MEGABYTE)
    del block
    assert peak_memory() > before + 90


@pytest.mark.skipif(sys.platform not in ("linux", "win32"), reason="no record of other processes")
def test_another_process_is_measured_until_it_has_ended():
    other = subprocess.Popen([sys.executable, "-c", TAKE], stdin=subprocess.PIPE,
                             stdout=subprocess.PIPE)
    other.stdout.readline()
    memory = PeakMemory(other.pid)
    memory.sample()
    assert memory.highest > 200
    memory.begin()
    assert memory.of_cell < 100 and memory.highest > 200        # freed before this cell
    other.communicate(b"\n")
    memory.sample()
    assert memory.highest > 200 and memory.children() == []


def test_it_needs_no_torch():
    code = ("import sys, vlm_utils.course.peak, vlm_utils.course.runner\n"
            "assert 'torch' not in sys.modules")
    subprocess.run([sys.executable, "-c", code], check=True)
