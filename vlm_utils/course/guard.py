"""What a kernel knows about its cells and does not say: run inside the kernel, before cell 1.

A cell is "ok" for Jupyter if its own code raised nothing. A shell line that failed, an exception in
a thread or a task, a script that failed in the background: the reply to the cell mentions none of
them. Here each is written down, with the cell that it belongs to, until `report` is asked for it.

The session (`session.Session`) sends this file's text to the kernel, so that it also works for a
Python that has no vlm_utils. It imports nothing but the standard library and IPython, leaves no
name in the notebook's namespace, and keeps words about exceptions, never the exceptions themselves:
these would keep alive whatever the lesson wants to see freed.
"""

from __future__ import annotations

import asyncio
import atexit
import concurrent.futures.thread
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
import weakref

_shell = None
_faults: list[tuple[str, str]] = []             # (id of the cell's message, what happened)
_notes: list[tuple[str, str]] = []              # (..., what could not be looked at)
_tasks: dict[int, tuple] = {}                   # id of a task: (weak reference, cell)
_jobs: dict[int, str] = {}                      # of a pool, which are running: their cell
_unasked: dict[int, tuple[str, str]] = {}       # futures with an exception that nobody asked for
_closed: set[str] = set()                       # streams that have been named
_scripts: list[tuple] = []                      # (cell, process, command, file) of %%script --bg


def install(shell, ended: str) -> None:
    """Start to watch. What cannot be watched with this Python or IPython is noted, not hidden.

    ended: the path of a file that is written once all that the lesson has registered to run at the
    end of Python has run: such functions run last in, first out.
    """
    global _shell
    _shell = shell
    atexit.register(open, ended, "x")
    for watch in (_watch_threads, _watch_futures, _watch_tasks, _watch_shell_lines,
                  _watch_script_cells):
        try:
            watch()
        except (AttributeError, ImportError, LookupError) as error:
            _notes.append(("", f"{watch.__name__.removeprefix('_watch_').replace('_', ' ')}: not "
                               f"known how to, with this version ({error})"))


def report(grace: float = 0.0, final: bool = False) -> str:
    """JSON: faults and notes since the last report, what still runs, the GPU's peak in bytes.

    grace: seconds that threads of the present cell get to end, so that what goes wrong in them is
    known in time. final: nobody will ask for the results of tasks and futures any more.
    """
    end = time.monotonic() + grace
    for thread in _threads():
        if thread._lesson_cell == here():
            thread.join(max(0.0, end - time.monotonic()))
    while here() in list(_jobs.values()) and time.monotonic() < end:
        time.sleep(0.01)
    _look_at_tasks(final)
    _look_at_scripts()
    if final:
        _faults.extend(_unasked.values())
        _unasked.clear()
    for name in ("stdout", "stderr"):
        if getattr(getattr(sys, name), "closed", False) and name not in _closed:
            _closed.add(name)
            _faults.append((here(), f"sys.{name} is closed: what is printed is lost"))
    torch = sys.modules.get("torch")
    gpu = (torch.cuda.max_memory_reserved()
           if torch is not None and torch.cuda.is_initialized() else 0)
    said = {"faults": list(_faults), "notes": list(_notes), "running": _running(), "gpu": gpu}
    _faults.clear()
    _notes.clear()
    return json.dumps(said)


def here() -> str:
    """The id of the message that brought the cell whose code is running, in whatever thread."""
    cell = getattr(threading.current_thread(), "_lesson_cell", None)
    return cell or (_shell.parent_header or {}).get("header", {}).get("msg_id", "")


def _words(error: BaseException | None, kind: type | None = None) -> str:
    name = (kind or type(error)).__name__
    try:
        return f"{name}: {error}"
    except Exception:               # an exception whose own text fails
        return name


# --- threads -----------------------------------------------------------------------------------

def _watch_threads() -> None:
    start, bootstrap = threading.Thread.start, threading.Thread._bootstrap_inner
    previous = threading.excepthook

    def watched_start(self):
        self._lesson_cell, self._lesson_parent = here(), _shell.parent_header
        start(self)

    def watched_bootstrap(self):
        _print_into(self.__dict__.pop("_lesson_parent", None))
        bootstrap(self)

    def hook(arguments):
        if arguments.exc_type is not SystemExit:
            cell = getattr(arguments.thread, "_lesson_cell", None) or here()
            name = getattr(arguments.thread, "name", "?")
            _faults.append((cell, f"an exception in the thread {name}: "
                                  f"{_words(arguments.exc_value, arguments.exc_type)}"))
        previous(arguments)

    threading.Thread.start = watched_start
    threading.Thread._bootstrap_inner = watched_bootstrap
    threading.excepthook = hook


def _threads() -> list[threading.Thread]:
    """Threads that cells have started and that run. Not daemons (progress bars have one), nor the
    threads of pools, which wait for work until the kernel ends."""
    return [thread for thread in threading.enumerate() if hasattr(thread, "_lesson_cell")
            and not thread.daemon and thread not in concurrent.futures.thread._threads_queues]


def _print_into(parent: dict | None) -> None:
    """What this thread prints goes to its own cell; ipykernel 7 gives it to the newest one."""
    if parent and hasattr(_shell, "set_thread_parent"):
        _shell.set_thread_parent(parent)


# --- futures and tasks -------------------------------------------------------------------------

def _watch_futures() -> None:
    """An exception in a pool's thread waits in its future; unless asked, nobody hears of it."""
    Future = concurrent.futures.Future
    begin, fail, result, exception = (Future.__init__, Future.set_exception, Future.result,
                                      Future.exception)

    def watched_init(self):
        begin(self)
        self._lesson_cell, self._lesson_parent = here(), _shell.parent_header

    def watched_fail(self, error):
        if error is not None:
            _unasked[id(self._condition)] = (
                self._lesson_cell, f"an exception in a pool, whose result nobody asked for: "
                                   f"{_words(error)}")
            weakref.finalize(self, _outlived, id(self._condition))
        fail(self, error)

    def watched_result(self, timeout=None):
        try:
            return result(self, timeout)
        finally:
            if self.done():
                _unasked.pop(id(self._condition), None)

    def watched_exception(self, timeout=None):
        try:
            return exception(self, timeout)
        finally:
            if self.done():
                _unasked.pop(id(self._condition), None)

    def watched_run(self, *arguments):
        # A pool's thread belongs to the cell that started it; each of its jobs, to its own.
        cell = threading.current_thread()._lesson_cell = self.future._lesson_cell
        _print_into(self.future._lesson_parent)
        _jobs[id(self)] = cell
        try:
            return job(self, *arguments)
        finally:
            del _jobs[id(self)]

    Future.__init__, Future.set_exception = watched_init, watched_fail
    Future.result, Future.exception = watched_result, watched_exception
    job, concurrent.futures.thread._WorkItem.run = (concurrent.futures.thread._WorkItem.run,
                                                    watched_run)


def _outlived(key: int) -> None:
    """A future is gone, and nobody asked: a fault for good. Its number may be given out again."""
    if key in _unasked:
        _faults.append(_unasked.pop(key))


def _watch_tasks() -> None:
    create = asyncio.BaseEventLoop.create_task
    default = asyncio.BaseEventLoop.default_exception_handler

    def watched_create(self, coroutine, **settings):
        task = create(self, coroutine, **settings)
        _tasks[id(task)] = (weakref.ref(task), here())
        return task

    def watched_default(self, context):
        error = context.get("exception")
        if error is not None and not isinstance(error, SystemExit | KeyboardInterrupt):
            _faults.append((_cell_of(context), f"asyncio: {context.get('message')}: "
                                               f"{_words(error)}"))
        default(self, context)

    asyncio.BaseEventLoop.create_task = watched_create
    asyncio.BaseEventLoop.default_exception_handler = watched_default


def _cell_of(context: dict) -> str:
    task, handle = context.get("task") or context.get("future"), context.get("handle")
    if id(task) in _tasks:
        return _tasks[id(task)][1]
    if handle is not None and hasattr(handle, "_context"):
        return handle._context.run(here)
    return here()


def _look_at_tasks(final: bool) -> None:
    """Forget tasks that went well; in the end, name those whose exception nobody has fetched."""
    for key, (reference, cell) in list(_tasks.items()):
        task = reference()
        if task is None or (task.done() and not getattr(task, "_log_traceback", False)):
            del _tasks[key]
        elif final and task.done():
            _faults.append((cell, f"an exception in a task that nobody waited for: "
                                  f"{_words(task._exception)}"))
            del _tasks[key]


# --- shell lines -------------------------------------------------------------------------------

def _watch_shell_lines() -> None:
    """`!command`, `%pip`, `x = !command`: IPython keeps the exit status of some, and shows none."""
    from IPython.core import interactiveshell
    from IPython.utils import _process_common
    zmqshell = sys.modules["ipykernel.zmqshell"]

    def watched(system):
        def run(command):
            status = system(command)
            _ended(command, status)
            return status
        return run

    def watched_handler(handler):
        def handle(command, callback, *arguments, **settings):
            def call(process):
                result = callback(process)
                _ended(command, process.returncode)
                return result
            return handler(command, call, *arguments, **settings)
        return handle

    zmqshell.system = watched(zmqshell.system)
    interactiveshell.system = watched(interactiveshell.system)
    _process_common.process_handler = watched_handler(_process_common.process_handler)
    if sys.platform == "win32":
        from IPython.utils import _process_win32
        _process_win32.process_handler = watched_handler(_process_win32.process_handler)


def _ended(command, status: int | None) -> None:
    fault = (here(), f"the shell line `{command}` ended with exit status {status}")
    if status and fault not in _faults:
        _faults.append(fault)


# --- script cells ------------------------------------------------------------------------------

# A script's exit status is that of its last command. The trap writes down each other one that
# failed: its line, its status, and itself; at the end, what still runs in the background. bash
# leaves out what stands in a condition or before || and &&.
_TRAP = ("""trap 'printf "failed\\t%s\\t%s\\t%s\\n" $LINENO $? "$BASH_COMMAND" >> "{file}"' ERR; """
         """trap 'jobs -l >> "{file}"' EXIT; """)


def _watch_script_cells() -> None:
    run = _shell.run_cell_magic
    magics = _shell.magics_manager.registry["ScriptMagics"]

    def watched(name, line, cell):
        words = [name, *line.split()] if name != "script" else line.split()
        program = next((os.path.basename(word) for word in words if word[:1] != "-"), "")
        file, known, script = "", list(magics.bg_processes), cell
        if "--no-raise-error" in line:
            _notes.append((here(), "a script that may fail: --no-raise-error"))
        elif program == "bash" and os.name == "posix":
            handle, file = tempfile.mkstemp(prefix="lesson-bash-")
            os.close(handle)
            cell = _TRAP.format(file=file.replace("\\", "/")) + cell
        elif program in ("bash", "sh", "cmd"):
            _notes.append((here(), f"the lines of a %%{program} cell before its last one"))
        try:
            return run(name, line, cell)
        except subprocess.CalledProcessError as error:
            error.cmd = script      # as its author wrote it
            raise
        finally:
            started = [process for process in magics.bg_processes if process not in known]
            _scripts.extend((here(), process, f"%%{name} {line}", file) for process in started)
            if not started:
                _read_trap(here(), file)

    _shell.run_cell_magic = watched


def _read_trap(cell: str, file: str) -> None:
    if not os.path.isfile(file):
        return
    with open(file, encoding="utf-8", errors="replace") as text:
        lines = text.read().splitlines()
    os.remove(file)
    for line in lines:
        if line.startswith("failed\t"):
            _, number, status, command = line.split("\t", 3)
            _faults.append((cell, f"line {number} of the script, `{command}`, ended with exit "
                                  f"status {status}"))
        elif line.startswith("[") and "Running" in line:
            _notes.append((cell, f"a job that a script left in the background: {line}"))
        elif line.startswith("[") and "Done" not in line:
            _faults.append((cell, f"a job in the background of a script failed: {line}"))


def _look_at_scripts() -> None:
    for entry in [entry for entry in _scripts if entry[1].returncode is not None]:
        cell, process, command, file = entry
        _scripts.remove(entry)
        _read_trap(cell, file)
        if process.returncode:
            _faults.append((cell, f"the script `{command}` ended in the background with exit "
                                  f"status {process.returncode}"))


def _running() -> list[tuple[str, str]]:
    """What cells have started and what still runs."""
    found = [(thread._lesson_cell, f"the thread {thread.name}") for thread in _threads()]
    found += [(cell, "a job of a pool") for cell in list(_jobs.values())]
    found += [(cell, f"the task {task.get_name()}") for reference, cell in _tasks.values()
              if (task := reference()) is not None and not task.done()]
    return found + [(cell, f"the script `{command}`") for cell, _, command, _ in _scripts]
