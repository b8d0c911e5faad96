"""A notebook's cells, run one after the other in one kernel: the engine of `course` and `check`.

It collects what each cell did, also what arrives after the cell has ended; whether that is good is
for `judge` to say.
"""

from __future__ import annotations

import copy
import time
from dataclasses import dataclass, field
from queue import Empty

import psutil
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionComplete
from nbformat import NotebookNode

from vlm_utils.course.kernel import POLL, KernelDied, WatchedKernel, guard_report
from vlm_utils.course.limits import OUTPUT_SECONDS, Limit

INTERRUPT_SECONDS = 10      # for a cell out of time to show where it was
END_SECONDS = 5             # for threads, tasks and scripts to end with the lesson
EXIT_SECONDS = 60           # for a kernel that is told to end: seconds, unless the machine is busy
SETTLE_SECONDS = 0.5          # for what happens right after the last cell
MEGABYTE = 1_000_000
_SHOWN = ("stream", "display_data", "execute_result", "error")


@dataclass
class Run:
    """One cell's run. number: from 1, among the code cells. cell: its source, and the outputs that
    it has had so far. began: when the kernel took it up, by time.monotonic. seconds on the clock;
    memory (of the process) and gpu in MB, at their peak."""

    number: int
    cell: NotebookNode
    index: int = 0
    seconds: float = 0.0
    memory: float = 0.0
    gpu: float = 0.0
    reply: dict = field(default_factory=dict)
    began: float = 0.0
    idle: bool = False
    errors: list[dict] = field(default_factory=list)            # as shown under the cell
    printed: dict[str, str] = field(default_factory=dict)       # by "stdout" and "stderr"
    out_of_time: str = ""                                       # the limit that it has used up
    died: str = ""                                              # how the kernel died in it
    faults: list[str] = field(default_factory=list)             # what the guard saw
    notes: list[str] = field(default_factory=list)              # what nobody could see
    late: bool = False      # something has happened since it was last judged


class Session:
    """Runs cells of a notebook (left as it is; `notebook` is a copy with the new outputs)."""

    def __init__(self, notebook: NotebookNode, kernel: WatchedKernel, limit: Limit):
        self.kernel, self.limit = kernel, limit
        self.notebook = copy.deepcopy(notebook)
        self.notes: list[str] = []              # about the whole lesson
        self._runs: dict[str, Run] = {}         # by the id of their messages
        self._code = [i for i, cell in enumerate(self.notebook.cells) if cell.cell_type == "code"]
        # nbclient knows how JupyterLab would show what a kernel sends: updates, Output widgets.
        self._client = NotebookClient(self.notebook, record_timing=False)
        self._client.kc = getattr(kernel, "kc", None)

    def run(self, number: int) -> Run:
        """Run the code cell of that number. Raises nothing for what the cell does."""
        index = self._code[number - 1]
        cell = self.notebook.cells[index]
        cell.outputs = []
        self._client.clear_before_next_output = False
        run = Run(number, cell, index)
        started = time.perf_counter()
        self.kernel.memory.begin()
        try:
            self._wait(run)
        except KernelDied as death:
            run.died = str(death)
        run.seconds = time.perf_counter() - started
        self.kernel.memory.sample()
        run.memory = self.kernel.memory.of_cell
        self._hear(run.reply, run)
        run.late = False
        return run

    def finish(self) -> None:
        """After the last cell: wait a little for what still runs, hear the guard once more, and end
        the kernel. What comes to light belongs to the cells that did it, or to the last one."""
        if not self._runs:
            return
        last = list(self._runs.values())[-1]
        started, running, fault = time.monotonic(), [], ""
        try:
            while (waited := time.monotonic() - started) < END_SECONDS * self.limit.scale:
                if waited > SETTLE_SECONDS and not (self._ask(last) or self.kernel.children()):
                    break
                time.sleep(POLL)
            running, children = self._ask(last, final=True), self.kernel.children()
            self.notes += [f"a process that still ran at the end: {name}" for name in children]
            # A kernel whose threads go on does not end: it is killed, and nobody is to blame.
            if not running and not children:
                fault, is_its_own = self.kernel.end(EXIT_SECONDS * self.limit.scale)
                if fault and not is_its_own:
                    self.notes.append(f"after all of the lesson had ended: {fault}")
                    fault = ""
        except KernelDied as death:
            fault = f"after the last cell {death}"
        for cell, what in running:
            self._runs[cell].notes.append(f"{what}, which still ran at the end")
        if fault:
            last.faults.append(fault)
            last.late = True

    def judge_again(self) -> list[Run]:
        """Cells of which something has been heard since they, or this, were last asked."""
        found = [run for run in self._runs.values() if run.late]
        for run in found:
            run.late = False
        return found

    # --- messages ------------------------------------------------------------------------------

    def _wait(self, run: Run) -> None:
        """Send the cell and wait for it, at most as long as it may take."""
        if not self.kernel.is_alive():
            raise KernelDied(self.kernel.epitaph())
        message = self.kernel.execute(run.cell.source)
        self._runs[message] = run
        sent = time.monotonic()
        while not self._take_reply(message, run):
            # The clock starts with the cell: an interrupt before that would interrupt nothing.
            began = run.began or sent + OUTPUT_SECONDS * self.limit.scale
            if (time.monotonic() - began > self.limit.seconds
                    and time.monotonic() - began > self._limit_by_now()):
                run.out_of_time = str(self.limit)
                self.kernel.interrupt()         # what it then shows says where it was
                break
        self._take_rest(run)

    def _take_rest(self, run: Run) -> None:
        """The output after a reply; or, out of time, whatever comes until the cell gives up."""
        seconds = INTERRUPT_SECONDS if run.out_of_time else OUTPUT_SECONDS
        until = time.monotonic() + seconds * self.limit.scale
        while not run.idle and time.monotonic() < until:
            self._take_output(POLL)
        if not run.idle and not run.out_of_time:
            run.faults.append("its output did not arrive after it had ended")

    def _limit_by_now(self) -> float:
        """The limit by the speed that this machine has now, not counting the kernel's own work."""
        process = self.kernel.memory.process
        try:
            process.suspend()
            try:
                self.limit = self.limit.again()
            finally:
                process.resume()
        except psutil.NoSuchProcess:
            pass                    # it has died: the next look at it says how
        return self.limit.seconds

    def _take_reply(self, message: str, run: Run) -> bool:
        """Take output, if there is any, and the reply to a message, if it is there."""
        if self._take_output(POLL) and not run.idle:
            return False                # output first: the reply is not far behind the last of it
        try:
            reply = self.kernel.get_message("shell", timeout=0)
        except Empty:
            return False
        if reply["msg_type"] != "execute_reply" or reply["parent_header"].get("msg_id") != message:
            return False
        run.reply = reply["content"]
        return True

    def _take_output(self, timeout: float) -> bool:
        """Take one message of the output to the cell that it belongs to; was there one?"""
        try:
            message = self.kernel.get_message("iopub", timeout=timeout)
        except Empty:
            return False
        run = self._runs.get(message["parent_header"].get("msg_id"))
        if run is None:
            return True
        content, kind = message["content"], message["msg_type"]
        run.began = run.began or time.monotonic()
        run.late = run.late or kind in _SHOWN
        if kind == "error":
            run.errors.append(content)
        elif kind == "stream":
            run.printed[content["name"]] = run.printed.get(content["name"], "") + content["text"]
        try:
            self._client.process_message(message, run.cell, run.index)
        except CellExecutionComplete:
            run.idle = True
        return True

    # --- the guard -----------------------------------------------------------------------------

    def _hear(self, reply: dict, last: Run) -> list[tuple[str, str]]:
        """Hand what the guard says to the cells it speaks of; returns what still runs.

        last: the cell that has just run, or nothing has since; it answers for what has no cell.
        """
        report = guard_report(reply)
        if report is None:
            return []
        last.gpu = max(last.gpu, report["gpu"] / MEGABYTE)
        for cell, fault in report["faults"]:
            run = self._runs.get(cell, last)
            run.faults.append(fault)
            run.late = True
        for cell, note in report["notes"]:
            (self._runs[cell].notes if cell in self._runs else self.notes).append(note)
        return [(cell, what) for cell, what in report["running"] if cell in self._runs]

    def _ask(self, last: Run, final: bool = False) -> list[tuple[str, str]]:
        """Hear the guard after the last cell, and take what output there is meanwhile."""
        message = self.kernel.execute("", final=final)
        asked = self._runs[message] = Run(0, NotebookNode(outputs=[]))
        until = time.monotonic() + OUTPUT_SECONDS * self.limit.scale
        while not self._take_reply(message, asked) and time.monotonic() < until:
            pass
        self._take_rest(asked)
        del self._runs[message]
        return self._hear(asked.reply, last)
