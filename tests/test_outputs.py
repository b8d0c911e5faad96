"""What a run finds in its output folder: its own is replaced, the user's stays."""

import pytest

from vlm_utils.course import runner
from vlm_utils.course.outputs import RECORD, claim
from vlm_utils.course.site import build_site
from vlm_utils.profiles import REPOSITORY

NOTEBOOKS = REPOSITORY / "notebooks"


@pytest.mark.parametrize("name", ["site", "index.html", "01_architecture.ipynb",
                                  "01_architecture.html"])
def test_a_run_of_the_course_replaces_nothing_of_the_users(tmp_path, monkeypatch, capsys, name):
    monkeypatch.setattr(runner, "run_lesson", lambda *words, **more: pytest.fail("it ran"))
    place = tmp_path / name
    if name == "site":
        place.mkdir()
        place = place / "thesis.html"
    place.write_text("mine")
    assert runner.run_course(NOTEBOOKS, tmp_path, only=["01"]) == 1
    assert f"holds {name}, which no run of the course has made" in capsys.readouterr().out
    assert place.read_text() == "mine" and not (tmp_path / RECORD).exists()


@pytest.mark.parametrize("name", ["check.html", "check.xml"])
def test_a_check_replaces_nothing_of_the_users(tmp_path, monkeypatch, capsys, name):
    monkeypatch.setattr(runner.subprocess, "run", lambda *words, **more: pytest.fail("it ran"))
    (tmp_path / name).write_text("mine")
    assert runner.check_course(NOTEBOOKS, tmp_path, only=["01"]) == 1
    assert f"holds {name}, which no run of the course has made" in capsys.readouterr().out
    assert (tmp_path / name).read_text() == "mine"


@pytest.mark.parametrize("name", ["site", "index.html"])
def test_a_site_replaces_nothing_of_the_users(tmp_path, name):
    (tmp_path / name).mkdir()
    (tmp_path / name / "thesis.html").write_text("mine")
    with pytest.raises(FileExistsError, match=f"holds {name}"):
        build_site(NOTEBOOKS, tmp_path / "site")
    assert (tmp_path / name / "thesis.html").read_text() == "mine"


def test_what_an_earlier_run_has_made_may_be_replaced(tmp_path):
    claim(tmp_path, ["site", "index.html"])
    (tmp_path / "index.html").write_text("of a run")
    claim(tmp_path, ["index.html", "01_a.ipynb"])
    (tmp_path / "02_a.ipynb").write_text("mine")
    with pytest.raises(FileExistsError, match="02_a.ipynb"):
        claim(tmp_path, ["01_a.ipynb", "02_a.ipynb"])
    assert (tmp_path / RECORD).read_text().split() == ["01_a.ipynb", "index.html", "site"]
