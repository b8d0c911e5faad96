"""A pytest plugin that makes nbval's green mean what an instructor takes it to mean.

nbval 0.11 waits for a dead kernel until the cell's timeout, passes a failed magic, runs on after
a failed cell, and compares nothing where nothing is stored. Here each of these is a failure that
says what happened, what comes after it is "not run", and each cell's seconds and peak memory are
kept for a table (`report`). Where the system allows it, kernels have no network.

pyproject.toml loads it; elsewhere: `pytest -p vlm_utils.course.nbval_plugin --nbval-lax notebooks`.
"""

from __future__ import annotations

import time

import pytest
from nbval.kernel import CURRENT_ENV_KERNEL_NAME
from nbval.plugin import IPyNbCell, IPyNbFile

from vlm_utils.course.cells import is_progress
from vlm_utils.course.conditions import stored_outputs_are_meant
from vlm_utils.course.kernel import KernelDied, WatchedKernel
from vlm_utils.course.report import Collector

PATIENCE = 60               # seconds for output behind its reply; nbval's 5 fail on a busy machine


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


def pytest_addoption(parser) -> None:
    group = parser.getgroup("nbval")
    group.addoption("--lesson-html", metavar="FILE", help="write the table of the lessons to FILE")
    group.addoption("--lesson-network", action="store_true",
                    help="let the lessons use the network, which is otherwise cut off on Linux")


def pytest_configure(config) -> None:
    config.pluginmanager.register(Collector(config), "lesson-report")


@pytest.hookimpl(wrapper=True)
def pytest_collect_file(file_path, parent):
    """nbval's own notebooks become ours."""
    found = yield
    return [LessonFile.from_parent(parent, path=file_path) if type(node) is IPyNbFile else node
            for node in found]
