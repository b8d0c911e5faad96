"""Verdicts on pictures and printed text, without a kernel: runs and stored outputs made by hand."""

import base64
import io

import nbformat
import numpy as np
import pytest
from PIL import Image, ImageDraw

from vlm_utils.course import judge
from vlm_utils.course.session import Run

RED, WHITE = (200, 0, 0), (255, 255, 255)


def picture(size=(200, 100), line=((0, 0), (199, 99)), colour=RED, ground=WHITE):
    image = Image.new("RGB", size, ground)
    if line:
        ImageDraw.Draw(image).line(line, fill=colour, width=3)
    stream = io.BytesIO()
    image.save(stream, "png")
    data = base64.b64encode(stream.getvalue()).decode()
    return nbformat.v4.new_output("display_data", {"image/png": data, "text/plain": "<Image>"})


def verdict(shown, stored, compared=False, source="show()"):
    cell = nbformat.v4.new_code_cell(source, outputs=shown)
    printed = {}
    for out in shown:
        if out.output_type == "stream":
            printed[out.name] = printed.get(out.name, "") + out.text
    run = Run(1, cell, reply={"status": "ok"}, idle=True, printed=printed)
    return judge.faults(run, stored, compared)


def says(text, name="stdout"):
    return nbformat.v4.new_output("stream", name=name, text=text)


@pytest.mark.parametrize(("shown", "stored", "words"), [
    ([picture()], [picture(size=(300, 100))], "is 200 x 100 pixels large, and 300 x 100 is stored"),
    ([picture()], [picture(size=(200, 150))], "is 200 x 100 pixels large, and 200 x 150 is stored"),
    ([picture(line=None)], [picture()], "picture 1 is blank"),
    ([picture(), picture(line=None)], None, "picture 2 is blank"),
    ([], [picture()], "it shows 0 pictures, and 1 are stored"),
    ([picture(), picture()], [picture()], "it shows 2 pictures, and 1 are stored"),
])
def test_a_picture_of_other_size_a_blank_one_and_a_missing_one_are_faults(shown, stored, words):
    assert any(words in fault for fault in verdict(shown, stored))


def test_a_picture_that_is_cut_off_is_a_fault():
    broken = picture()
    broken.data["image/png"] = broken.data["image/png"][:400]
    assert "picture 1 cannot be read" in verdict([broken], [picture()])[0]


def test_pictures_that_are_as_stored_or_nearly_are_none():
    assert verdict([picture()], [picture()], compared=True) == []
    assert verdict([picture(size=(205, 98))], [picture()]) == []        # other fonts
    assert verdict([picture(line=None)], [picture(line=None)]) == []    # one colour is meant
    assert verdict([picture()], None) == []                             # another profile


def test_a_compared_picture_must_show_the_same():
    other = picture(line=((0, 99), (199, 0)))
    assert "picture 1 is another one than is stored" in verdict([other], [picture()], True)[0]
    assert verdict([other], [picture()], compared=False) == []
    assert "is 201 x 100 pixels" in verdict([picture(size=(201, 100))], [picture()], True)[0]
    smooth = picture(colour=(210, 30, 30))                              # another machine's colours
    assert verdict([smooth], [picture()], compared=True) == []


def test_what_is_not_checked_of_a_picture_is_said():
    cell = nbformat.v4.new_code_cell("show()", outputs=[picture()])
    assert judge.unchecked(Run(1, cell)) == [
        "pictures: only their number and size, and that they are not blank"]


def test_a_printed_traceback_is_a_fault_unless_it_is_stored():
    text = ("before\nTraceback (most recent call last):\n  File \"a.py\", line 3, in <module>\n"
            "    1 / 0\nValueError: too small\nafter\n")
    for name in ("stdout", "stderr"):
        assert verdict([says(text, name)], []) == ["it prints a traceback: ValueError: too small"]
    assert verdict([says(text)], [says(text)]) == []
    assert verdict([says("Traceback, most recent call last: what is that?")], []) == []


def test_what_a_magic_prints_in_place_of_failing_counts_in_cells_with_a_magic_only():
    text = "[Errno 2] No such file or directory: 'x'\n"
    assert verdict([says(text)], [], source="%cd x") == [f"a magic failed: {text.strip()}"]
    assert verdict([says(text)], [], source="print(error)") == []


def test_a_grey_and_a_transparent_picture_are_read():
    """Of one channel, and of four."""
    for mode in ("L", "RGBA"):
        values = np.arange(64, dtype=np.uint8).reshape(8, 8)
        stream = io.BytesIO()
        Image.fromarray(values).convert(mode).save(stream, "png")
        out = nbformat.v4.new_output("display_data", {
            "image/png": base64.b64encode(stream.getvalue()).decode()})
        assert verdict([out], [out], compared=True) == []


def test_an_error_is_one_line_and_memory_that_runs_out_is_named():
    assert judge.describe_error({"ename": "E", "evalue": "a\n  b"}) == "E: a b"
    assert judge.describe_error({"ename": "RuntimeError", "evalue": "can't allocate memory"}) == (
        "out of memory: RuntimeError: can't allocate memory")
