"""Memory: counted once, explained, and really freed."""

import atexit
import gc
import mmap
import os
import sys
import types
import weakref

import ipywidgets
import pytest
import torch
from IPython.core.interactiveshell import InteractiveShell
from small_models import batch_of

from vlm_utils import memory
from vlm_utils.datasets import build_tasks
from vlm_utils.widgets import Explorer

MB = 1_000_000


@pytest.fixture
def shell():
    """A notebook's shell, made for one test, which get_ipython() then returns."""
    InteractiveShell.clear_instance()
    made = InteractiveShell.instance()
    made.history_manager.enabled = False
    yield made
    made.atexit_operations()
    atexit.unregister(made.atexit_operations)
    InteractiveShell.clear_instance()
    for name in ("last_traceback", "last_value", "last_type", "last_exc"):
        if hasattr(sys, name):
            delattr(sys, name)


def run(shell, code, works=True):
    result = shell.run_cell(code, store_history=True)
    assert result.success == works, result.error_in_exec
    return result


# --- counting ----------------------------------------------------------------------------------

def test_a_new_tensor_is_counted_and_its_loss_too():
    before = memory.memory_report()
    tensor = torch.zeros(5 * MB, dtype=torch.float32)
    grown = memory.memory_report() - before
    assert grown.tensors == pytest.approx(20, abs=0.5)
    del tensor
    assert (memory.memory_report() - before).tensors == pytest.approx(0, abs=0.5)


def test_views_of_one_storage_count_once():
    before = memory.memory_report()
    tensor = torch.zeros(2000, 1000)
    views = [tensor[1:], tensor.T, tensor.view(-1), tensor.detach()]
    assert (memory.memory_report() - before).tensors == pytest.approx(8, abs=0.5)
    assert len(views) == 4


def test_a_small_view_keeps_its_whole_storage_alive():
    before = memory.memory_report()
    one_number = torch.zeros(2 * MB)[:1]
    assert (memory.memory_report() - before).tensors == pytest.approx(8, abs=0.5)
    assert one_number.numel() == 1


def test_the_process_holds_what_was_written_to():
    """Pages of its own: a tensor may get some that the process has held since earlier tests."""
    with mmap.mmap(-1, 100 * MB) as pages:
        before = memory.memory_report()
        torch.frombuffer(pages, dtype=torch.uint8).fill_(1)
        assert (memory.memory_report() - before).process == pytest.approx(100, abs=20)


def test_counting_touches_nothing_but_tensors(recwarn):
    """gc hands over every object of the process; some warn or fail when they are asked much."""
    memory.memory_report()
    assert [str(warning.message) for warning in recwarn] == []


def test_what_training_keeps_is_exact():
    """1,000 x 500 weights and 500 biases in float32, Adam's two moments of each."""
    model = torch.nn.Linear(1000, 500)
    optimizer = torch.optim.Adam(model.parameters())
    size = (1000 * 500 + 500) * 4 / MB
    assert memory.training_memory(model, optimizer) == {
        "weights": pytest.approx(size), "gradients": 0, "optimizer state": 0}
    model(torch.ones(2, 1000)).sum().backward()
    optimizer.step()
    kept = memory.training_memory(model, optimizer)
    assert kept["gradients"] == pytest.approx(size)
    assert kept["optimizer state"] == pytest.approx(2 * size, abs=1e-4)  # and a step counter
    optimizer.zero_grad(set_to_none=True)
    assert memory.training_memory(model)["gradients"] == 0
    assert memory.training_memory(model)["optimizer state"] == 0


def test_frozen_weights_need_neither_gradient_nor_moments(model, processor, make_sample):
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad])
    model(**batch_of([make_sample(2)], processor)).loss.backward()
    optimizer.step()
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad) * 4 / MB
    kept = memory.training_memory(model, optimizer)
    assert kept["gradients"] == pytest.approx(trained)
    assert kept["optimizer state"] == pytest.approx(2 * trained, abs=1e-3)
    assert kept["weights"] > trained


# --- who holds it ------------------------------------------------------------------------------

class Thing:
    """Something large that a notebook made."""


def test_holders_name_a_container_and_an_attribute():
    thing, owner = Thing(), types.SimpleNamespace()
    owner.best_model = thing
    kept = [thing]
    found = memory.holders(thing)
    assert any("'best_model'" in text for text in found)
    assert kept == [thing]


def test_holders_name_what_a_notebook_holds(shell):
    shell.user_ns["Thing"] = Thing
    run(shell, "model = Thing()\nhistory = [model]")
    run(shell, "model")
    found = memory.holders(shell.user_ns["model"])
    assert "the notebook's name model" in found
    assert "Out[2]" in found
    assert "the notebook's name history, in a list" in found


def test_holders_name_the_hidden_names_of_a_result(shell):
    shell.user_ns["Thing"] = Thing
    run(shell, "Thing()")
    found = memory.holders(shell.user_ns["_"])
    assert {"Out[1]", "the notebook's name _1", "the notebook's hidden name _1"} <= set(found)


def test_holders_name_the_traceback_of_a_function_that_has_ended(shell):
    """It is over; calling it a running function would send the reader looking for one."""
    shell.user_ns["Thing"] = Thing
    run(shell, "def fail():\n    inside = Thing()\n    kept.append(ref(inside))\n    1 / 0")
    shell.user_ns.update(kept=[], ref=weakref.ref)
    run(shell, "fail()", works=False)
    assert memory.holders(shell.user_ns["kept"][0]()) == [
        "a variable of the function fail, whose frame a traceback keeps"]


def test_holders_tell_a_running_function_from_a_kept_frame():
    def function(kept):
        inside = Thing()
        kept += [sys._getframe(), weakref.ref(inside)]
        return memory.holders(inside)

    kept = []
    # From Python 3.11 on, nothing is told about the variables of a function that still runs.
    assert set(function(kept)) <= {"a variable of the running function function"}
    assert memory.holders(kept[1]()) == [
        "a variable of the function function, whose frame is kept"]


def test_holders_leave_nothing_behind_that_holds():
    """Looking at a frame's variables may make a copy of them."""
    thing = Thing()
    reference, names = weakref.ref(thing), {"kept": thing}
    assert "an attribute or item 'kept'" in memory.holders(thing)
    del thing
    names.clear()
    assert memory.is_freed(reference)


def test_holders_name_a_generator_that_waits():
    def numbers():
        inside = Thing()
        references.append(weakref.ref(inside))
        yield 1

    references = []
    waiting = numbers()
    next(waiting)
    assert any("numbers" in text and "running" not in text
               for text in memory.holders(references[0]()))


def test_a_thing_that_nothing_holds_has_no_holder_but_the_caller():
    thing = Thing()
    found = memory.holders(thing)
    assert [text for text in found if "running function" not in text] == []


# --- freeing -----------------------------------------------------------------------------------

def failing_function(references):
    large = torch.zeros(MB)
    references.append(weakref.ref(large))
    raise RuntimeError("out of memory, as it were")


def test_a_tensor_held_by_the_last_error_is_freed():
    """As after a failed cell: the traceback holds the frame, the frame holds the tensor."""
    references = []
    try:
        failing_function(references)
    except RuntimeError as error:
        sys.last_type, sys.last_value = type(error), error
        sys.last_traceback, sys.last_exc = error.__traceback__, error
    assert not memory.is_freed(references[0])
    memory.forget_tracebacks()
    assert memory.is_freed(references[0])


def test_a_tensor_held_by_a_failed_cell_is_freed(shell):
    shell.user_ns.update(references=[], failing_function=failing_function)
    run(shell, "failing_function(references)", works=False)
    reference = shell.user_ns["references"][0]
    assert not memory.is_freed(reference)
    memory.forget_tracebacks()
    assert memory.is_freed(reference)
    run(shell, "2 + 2")
    run(shell, "1 / 0", works=False)     # errors are still shown afterwards


def printed(outputs) -> str:
    assert [out for out in outputs if out.output_type == "error"] == []
    return "".join(out.text for out in outputs if out.output_type == "stream")


@pytest.fixture(scope="module")
def notebook(kernel):
    """A real kernel with a function that fails, and keeps what it has made."""
    kernel("""import gc, sys, weakref
from vlm_utils import memory
references, shell = [], get_ipython()
class Thing: pass
def fail():
    inside = Thing()
    references.append(weakref.ref(inside))
    raise RuntimeError("too large")""")
    return kernel


def test_the_debugger_keeps_a_failed_cell_and_lets_it_go(notebook):
    """After %debug, a frame is kept in one more place."""
    for ask in ("2 + 2", "%debug"):
        assert notebook("fail()")[-1].ename == "RuntimeError"
        notebook(ask)
        assert printed(notebook("print(memory.is_freed(references[-1]))")) == "False\n", ask
        assert printed(notebook("memory.forget_tracebacks()\n"
                                "print(memory.is_freed(references[-1]))")) == "True\n", ask
    assert notebook("1 / 0")[-1].ename == "ZeroDivisionError"       # errors are shown afterwards
    assert "ZeroDivisionError" in str(notebook("%tb"))


def test_what_a_failed_cell_keeps_is_free_in_the_very_next_cell(notebook):
    notebook("fail()")
    assert printed(notebook("memory.forget_tracebacks()\n"
                            "print(memory.is_freed(references[-1]))")) == "True\n"
    notebook("Thing()")
    notebook("references.append(weakref.ref(_))")
    assert printed(notebook("memory.forget_outputs()\n"
                            "print(memory.is_freed(references[-1]))")) == "True\n"


def test_forgetting_leaves_a_handler_of_ones_own_in_place(shell):
    seen = []
    shell.set_custom_exc((ValueError,), lambda self, kind, value, tb, tb_offset=None:
                         seen.append(value))
    memory.forget_tracebacks()
    run(shell, "raise ValueError('mine')", works=False)
    assert len(seen) == 1


def test_out_keeps_a_tensor_alive_until_it_is_emptied(shell):
    """The name is deleted, and Out, _ and _1 still hold the tensor."""
    run(shell, "import torch, weakref")
    run(shell, "large = torch.zeros(10)\nreference = weakref.ref(large)")
    run(shell, "large")
    run(shell, "del large")
    reference = shell.user_ns["reference"]
    assert not memory.is_freed(reference)
    memory.forget_outputs()
    assert memory.is_freed(reference)
    assert shell.user_ns["Out"] == {} and "_3" not in shell.user_ns
    run(shell, "6 * 7")
    run(shell, "answer = _ + 1")         # the memory of results works on
    assert shell.user_ns["answer"] == 43


def test_release_deletes_names_and_all_that_a_notebook_keeps(shell):
    run(shell, "import torch, weakref")
    run(shell, "large = torch.zeros(3_000_000)\nreference = weakref.ref(large)")
    run(shell, "large")
    before = memory.memory_report()
    after = memory.release(shell.user_ns, "large")
    assert "large" not in shell.user_ns and "reference" in shell.user_ns
    assert memory.is_freed(shell.user_ns["reference"])
    assert (before - after).tensors == pytest.approx(12, abs=0.5)


def test_release_deletes_nothing_where_one_name_is_wrong():
    names = {"model": Thing(), "optimizer": Thing()}
    with pytest.raises(KeyError, match="no such name in the notebook: modle"):
        memory.release(names, "model", "modle", "optimizer")
    assert set(names) == {"model", "optimizer"}


def test_release_collects_cycles():
    thing = Thing()
    thing.itself, reference = thing, weakref.ref(thing)
    gc.disable()
    try:
        names = {"thing": thing}
        del thing
        memory.release(names, "thing")
        assert reference() is None
    finally:
        gc.enable()


def test_release_closes_an_explorer(make_model, processor, earth_table):
    """Its callbacks would keep model and data alive, whatever becomes of its name."""
    names = {"explorer": Explorer(make_model(), processor,
                                  build_tasks(earth_table, {"select 2": 2}, 0))}
    explorer, model = (weakref.ref(t) for t in (names["explorer"], names["explorer"].model))
    kept = names["explorer"]
    memory.release(names, "explorer")
    assert memory.is_freed(model), "release deletes a name and does not close what it names"
    del kept
    assert memory.is_freed(explorer)


def test_release_closes_a_widget_and_a_file_and_nothing_else(tmp_path, picture):
    slider, image = ipywidgets.IntSlider(), picture(0)
    names = {"slider": slider, "file": (tmp_path / "a").open("w"), "image": image, "os": os,
             "Explorer": Explorer, "tensor": torch.ones(1)}
    file = names["file"]
    memory.release(names, *names)
    assert slider.comm is None and file.closed and names == {}
    assert image.getpixel((0, 0)), "a picture that others use was emptied"


def test_release_without_names_only_tidies_up():
    assert memory.release().process > 0


def test_outside_a_notebook_there_is_nothing_to_forget():
    InteractiveShell.clear_instance()
    memory.forget_outputs()
    memory.forget_tracebacks()
