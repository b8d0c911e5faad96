"""A pytest plugin that makes nbval's green mean what an instructor takes it to mean.

nbval 0.11 collects the cells and compares their outputs. Running them and saying what is a failure
is left to `session` and `judge`, as in `python -m vlm_utils course`; nbval's own engine is fooled
by much (tests/README.md lists it). What comes after a failed cell is "not run". Each cell's
seconds and peak memory are kept for a table (`report`). Where the system allows it, kernels have no
network.

pyproject.toml loads it; elsewhere: `pytest -p vlm_utils.course.nbval_plugin --nbval-lax notebooks`.
"""

from __future__ import annotations

import pytest
from nbval.kernel import CURRENT_ENV_KERNEL_NAME
from nbval.plugin import IPyNbCell, IPyNbFile, NbCellError, coalesce_streams

from vlm_utils.course import judge
from vlm_utils.course.cells import comparable, without_progress
from vlm_utils.course.conditions import stored_outputs_are_meant
from vlm_utils.course.kernel import WatchedKernel
from vlm_utils.course.limits import START_SECONDS, Limit
from vlm_utils.course.report import Collector
from vlm_utils.course.session import Run, Session
from vlm_utils.profiles import get_profile

# nbval's defaults, which stand for "not given": then limits follow the profile and the machine.
NBVAL_CELL_SECONDS, NBVAL_START_SECONDS = 2000, 60


class LessonFile(IPyNbFile):
    """A notebook with a session. failed: number of the first cell that failed, 0 for the file."""

    failed: int | None = None
    session: Session | None = None
    start_error: Exception | None = None

    def collect(self):
        """nbval's cells, numbered from 1 as in JupyterLab after "run all", and the end."""
        meant = stored_outputs_are_meant()
        self.cells: dict[int, LessonCell] = {}
        try:
            found = list(super().collect())
        except Exception as error:      # nbformat raises what it likes; other lessons still run
            yield BrokenLesson.from_parent(self, name="Notebook", error=error)
            return
        for cell in found:
            number = cell.cell_num + 1
            cell.options["check"] = cell.options["check"] and meant
            self.cells[number] = LessonCell.from_parent(
                self, name=f"Cell {number}", cell_num=number, cell=cell.cell, options=cell.options)
            self.cells[number].comparable = meant
            yield self.cells[number]
        if found:
            yield LessonEnd.from_parent(self, name="End")

    def setup(self) -> None:
        if not self.cells:
            return
        option = self.config.option
        name = (CURRENT_ENV_KERNEL_NAME if option.nbval_current_env else option.nbval_kernel_name
                or self.nb.metadata.get("kernelspec", {}).get("name", "python"))
        given = option.nbval_cell_timeout != NBVAL_CELL_SECONDS
        limit = Limit(option.nbval_cell_timeout) if given else Limit.of(get_profile().name)
        patience = option.nbval_kernel_startup_timeout
        try:
            self.kernel = WatchedKernel(
                str(self.path.parent), limit, name, offline=not option.lesson_network,
                startup_timeout=START_SECONDS if patience == NBVAL_START_SECONDS else patience)
            self.session = Session(self.nb, self.kernel, limit)
        except Exception as error:          # one failure, of the first cell, and not one a cell
            self.start_error = error
        self.setup_sanitize_files()

    def teardown(self) -> None:
        if self.kernel is not None:
            self.kernel.stop()

    def late_faults(self) -> list[tuple[int, str]]:
        """Cells that have turned bad after they had passed: (number, what happened)."""
        found = []
        for run in self.session.judge_again():
            message, _ = self.cells[run.number].verdict(run)
            if message:
                found.append((run.number, f"after it had ended: {message}"))
        return found


class LessonCell(IPyNbCell):
    """A cell that fails as soon, and only if, something is wrong with itself or one before it."""

    comparable = True

    def setup(self) -> None:
        self.user_properties.append(("cell", self.cell_num))
        self.user_properties.append(("source", self.cell.source.strip().split("\n")[0][:76]))
        if self.parent.failed is not None:
            pytest.skip(f"not run: cell {self.parent.failed} failed")

    def runtest(self) -> None:
        if self.options["skip"]:
            pytest.skip("tagged nbval-skip")
        if self.parent.start_error is not None:
            self._fail(f"the kernel did not start: {self.parent.start_error}")
        run = self.parent.session.run(self.cell_num)
        self.user_properties += [
            ("seconds", round(run.seconds, 3)), ("peak_mb", round(run.memory, 1)),
            ("gpu_mb", round(run.gpu, 1)), ("limit", str(self.parent.session.limit)),
            ("compared", bool(self.options["check"]))]
        message, traceback = self.verdict(run)
        if unchecked := judge.unchecked(run):
            self.user_properties.append(("unchecked", unchecked))
        late = self.parent.late_faults()
        if late:
            self.user_properties.append(("late", late))
        if message:
            self._fail(message, traceback)
        if late:
            self.parent.failed = late[0][0]
            self.raise_cell_error("; ".join(f"cell {number}, {text}" for number, text in late))

    def verdict(self, run: Run) -> tuple[str, str]:
        """What is wrong with a run of this cell, and a traceback; ("", "") if nothing is."""
        stored = self.cell.outputs if self.comparable and self.cell.execution_count else None
        found = judge.faults(run, stored, compared=self.options["check"])
        if found:
            return "\n".join(found), "\n".join(run.reply.get("traceback", []))
        if self.cell.execution_count is None and self.cell.outputs:
            return "it has stored outputs, and was never executed", ""
        if not self.options["check"]:
            return "", ""
        if self.cell.execution_count is None:
            return "this cell is to be compared, but no output of it is stored", ""
        outputs = [coalesce_streams(without_progress(outs))
                   for outs in (run.cell.outputs, self.cell.outputs)]
        if self.compare_outputs(*outputs):
            return "", ""
        return "Cell outputs differ", "\n".join(self.comparison_traceback)

    def compare_outputs(self, test, ref, skip_compare=None):
        """As nbval's, without what no two runs have in common."""
        return super().compare_outputs(comparable(test), comparable(ref), skip_compare)

    def _fail(self, message: str, traceback: str = "") -> None:
        self.parent.failed = self.cell_num
        self.user_properties.append(("failure", message))
        self.raise_cell_error(message, traceback)


class LessonEnd(pytest.Item):
    """What comes to light after the last cell, and whether the kernel then ends as it should."""

    def setup(self) -> None:
        if self.parent.failed is not None or self.parent.session is None:
            pytest.skip(f"not run: cell {self.parent.failed} failed")

    def runtest(self) -> None:
        session = self.parent.session
        session.finish()
        self.user_properties += [("end", True), ("unchecked", session.notes)]
        if late := self.parent.late_faults():
            self.user_properties.append(("late", late))
            self.parent.failed = late[0][0]
            raise LessonFault("; ".join(f"cell {number}, {text}" for number, text in late))

    def repr_failure(self, excinfo, style=None):
        own = isinstance(excinfo.value, LessonFault | NbCellError)
        return str(excinfo.value) if own else super().repr_failure(excinfo, style)

    def reportinfo(self):
        return self.path, 0, f"{self.path.name}::{self.name}"


class BrokenLesson(LessonEnd):
    """A notebook that cannot be read."""

    def __init__(self, *, error: Exception, **settings):
        super().__init__(**settings)
        self.error = error

    def setup(self) -> None:
        self.user_properties += [("end", True)]

    def runtest(self) -> None:
        message = f"it cannot be read: {type(self.error).__name__}: {str(self.error)[:200]}"
        self.user_properties.append(("late", [(0, message)]))
        raise LessonFault(message)


class LessonFault(Exception):
    """What is wrong with a lesson as a whole, in words."""


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
