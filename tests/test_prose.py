"""Turns of phrase that are advised against: found, and good English let be."""

import nbformat
import pytest

from vlm_utils.course.prose import turns_of_phrase

BAD = {
    "16 tokens per image are no square.": ("are no square", "is not a"),
    "The third path is no folder.": ("is no folder", "is not a"),
    "Take the mean where none is given.": ("where none", "if"),
    "Nothing changes where there is no padding.": ("where there is no", "if"),
    "The loss behind the step counts.": ("behind", "after"),
    "It costs one token a row.": ("one token a row", "per"),
    "Flickr8k has five captions an image.": ("five captions an image", "per"),
    "Who chooses by the test places has then seen them.": (
        "Who chooses by the test places has then seen them", "anyone who; or: if you"),
    "Placeholders move. Whoever replaces one after the other\nis wrong.": (
        "Whoever replaces one after the other is wrong", "anyone who; or: if you"),
    "Over so many pairs the interval is wide.": ("so many pairs", "that many"),
    "Encode it anew.": ("anew", "again"),
    "So, of the table, this much may be said.": ("may be said", "we can say, we can claim"),
    "Which differences may be stated?": ("may be stated", "we can say, we can claim"),
    "## 2. More images for nothing": ("for nothing", "for free"),
    "It is one of N at selections.": ("at selections", "when it selects"),
    "What this or that one shows": ("this or that one", "one of them"),
    "A rectangle is the obvious wish.": ("is the obvious wish", "is the obvious approach"),
    "Two things are asked of each.": ("things are asked of", "must pass"),
}
GOOD = [
    "There is no folder. It is no longer there; it is no more than a guess, is no doubt slow.",
    "Look where the model looks. Where does it stand?",
    "It lags behind; what was left behind; the work behind the scenes.",
    "It shows an image. One model is a Llama. Take a step. Two images show a lake.",
    "Who wrote this? Ask who wrote it.",
    "There are so many that it overflows. So many rows that nothing fits.",
    "> Encode it anew.",
    "`encode anew` and [again](anew.md)",
    "```\nis no folder, anew\n```",
]


def found(tmp_path, text):
    (tmp_path / "a.md").write_text(text, encoding="utf-8")
    return turns_of_phrase(tmp_path / "a.md")


@pytest.mark.parametrize("text", BAD)
def test_a_turn_of_phrase_is_found_with_what_to_say(tmp_path, text):
    words, better = BAD[text]
    assert found(tmp_path, text) == [f"a.md says {words!r}: say {better!r}"]


@pytest.mark.parametrize("text", GOOD)
def test_plain_english_is_left_alone(tmp_path, text):
    assert found(tmp_path, text) == []


def test_the_cell_of_a_notebook_is_named_and_its_code_is_not_read(tmp_path):
    notebook = nbformat.v4.new_notebook(cells=[
        nbformat.v4.new_markdown_cell("# Title"), nbformat.v4.new_code_cell("# do it anew"),
        nbformat.v4.new_markdown_cell("## 1. Again\nDo it anew.")])
    nbformat.write(notebook, tmp_path / "a.ipynb")
    assert turns_of_phrase(tmp_path / "a.ipynb") == [
        r"cell 3 of all ('## 1. Again\nDo it anew.' ...) says 'anew': say 'again'"]
