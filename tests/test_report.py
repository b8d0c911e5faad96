"""The table: its rows, its page, and what it says of what nobody has looked at."""

from vlm_utils.course.report import CellRun, LessonRun, table, to_html, unchecked_lines


def test_rows_of_the_table_show_the_gpu_only_where_there_is_one():
    lesson = LessonRun("x", [CellRun(1, "a", "ok", 2.0, 500.0, 0.0),
                             CellRun(2, "b", "ok", 3.0, 400.0, 0.0)], limit="9 s = 3 x 3.0")
    assert lesson.row() == ("x", "2", "5.0", "500", "-", "cell 2: 3.0 s", "9 s = 3 x 3.0", "ok")
    lesson.cells[1].gpu = 1234.5
    assert lesson.row()[4] == "1234"


def test_the_result_is_the_first_fault_else_the_headline_else_ok():
    lesson = LessonRun("x", [CellRun(1, "a", "ok"),
                             CellRun(2, "b", "failed", message="E: no\nmore")])
    assert lesson.result() == "cell 2 failed: E: no"
    lesson.blame(1, "late")
    assert lesson.result() == "cell 1 failed: late"
    assert LessonRun("x", [CellRun(1, "a", "ok")], headline="99%").result() == "99%"
    assert LessonRun("x", faults=["it cannot be read"]).row()[-1] == "it cannot be read"


def test_columns_are_as_wide_as_what_stands_in_them():
    lines = table([LessonRun("a_long_name", [CellRun(1, "a", "ok", 2.0)]), LessonRun("b")])
    ends = zip(lines, ("result", "ok", "ok"), strict=True)
    assert len({line.index(word) for line, word in ends}) == 1


def test_a_page_shows_what_stands_in_a_cell_as_text():
    cell = CellRun(1, "<script>", "failed", message="a < b", unchecked=["a > b"])
    page = to_html([LessonRun("x", [cell])])
    assert "&lt;script&gt;" in page and "failed: a &lt; b" in page and "<script>" not in page
    assert "a &gt; b" in page


def test_what_is_not_checked_is_named_once_with_its_cells():
    both = CellRun(5, "", "ok", unchecked=["pictures", "widgets"], compared=True)
    lessons = [LessonRun("01", [CellRun(3, "", "ok", unchecked=["pictures"]), both,
                                CellRun(6, "", "not run")]),
               LessonRun("02", [CellRun(1, "", "ok", unchecked=["pictures"])], notes=["tasks"])]
    assert unchecked_lines(lessons) == [
        "not checked: what 2 of 3 cells print, against what is stored",
        "not checked: pictures (01 3, 5; 02 1)", "not checked: widgets (01 5)",
        "not checked: tasks (02)"]


def test_a_page_breaks_no_line_where_a_terminal_would():
    """A trap: the lines of the terminal, each made a paragraph, cut a list of cells in two."""
    cells = [CellRun(number, "", "ok", unchecked=["pictures"]) for number in range(1, 60)]
    lessons = [LessonRun("04_training", cells)]
    assert sum("58, 59)" in line for line in unchecked_lines(lessons)) == 1
    assert max(map(len, unchecked_lines(lessons))) <= 100
    numbers = ", ".join(map(str, range(1, 60)))
    assert f"<p>not checked: pictures (04_training {numbers})</p>" in to_html(lessons)
