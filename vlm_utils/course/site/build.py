"""Builds the site: copies pages into a folder as Sphinx wants them, and runs Sphinx on it."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import nbformat

from vlm_utils.course.address import binder_link, colab_link, repository_address
from vlm_utils.course.cells import lessons, title
from vlm_utils.course.outputs import claim
from vlm_utils.course.site.api import read_rooms, room_page
from vlm_utils.course.site.front_page import write_front_page
from vlm_utils.course.site.glossary import TermLinks, glossary_page, read_terms
from vlm_utils.course.site.lessons import OUTPUTS, Lesson, read_facts
from vlm_utils.course.site.markdown import (
    after_details,
    change_links,
    is_foreign,
    relative,
    section,
)
from vlm_utils.profiles import REPOSITORY

GLOSSARY = "notebooks/glossary.md"
# Pages of the repository, and where the site has them.
PAGES = {"README.md": "index.md"} | {page: page for page in (
    GLOSSARY, "benchmarks/README.md", "solutions/README.md", "data/README.md", "instructors.md",
    "cluster.md", "tests/README.md", "CONTRIBUTING.md")}
CONTENTS = (
    ("Reference", (GLOSSARY, "references.md", "api/index.md", "benchmarks/README.md",
                   "data/README.md", "cluster.md")),
    ("For instructors", ("instructors.md", "solutions/README.md", "measured.md", "tests/README.md",
                         "CONTRIBUTING.md")))
CHECKED = "check.html"      # what `make check` leaves in the output folder
_NOT_MEASURED = "Nothing has been measured for this site. `make check` measures every lesson on " \
    "your machine; build the site after it."


def why_not(folder: Path) -> str:
    """ "", or what is missing for a site of a folder's lessons to be built, and what to do."""
    missing = [name for name in ("sphinx", "myst_nb", "sphinx_book_theme")
               if importlib.util.find_spec(name) is None]
    if missing:
        return f"{', '.join(missing)} not installed: python -m pip install -c constraints.txt " \
               "-e '.[site]'"
    if folder.resolve() != REPOSITORY / "notebooks":
        return f"{folder} does not hold the lessons of a clone, with its other pages around them"
    return ""


def build_site(folder: Path, target: Path, executed: dict[str, Path] | None = None,
               measured: str = "") -> list[str]:
    """Build the site of the lessons in a folder; returns the warnings of Sphinx, one per line.

    target: a folder, replaced if it is of an earlier build; index.html beside it opens the site.
    Raises FileExistsError if one of them is somebody else's (`claim`). executed:
    notebooks from a run of one's own by their stem, which are shown in place of those in `folder`.
    measured: HTML of what each lesson took, `report.measured_html`. Raises RuntimeError, with what
    Sphinx said, if it fails.
    """
    claim(target.parent, [target.name, "index.html"])
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="site_", dir=target.parent) as name:
        source, output = Path(name) / "source", Path(name) / "site"
        Stage(folder, source, executed).fill(measured)
        warnings = _run_sphinx(source, output)
        shutil.rmtree(target, ignore_errors=True)
        shutil.move(output, target)
    write_front_page(target)
    return warnings


def stored_site(folder: Path, output: Path) -> int:
    """`make site`: the lessons as they are stored, and what the last `make check` has measured.

    Returns an exit status: 1 if the site cannot be built, and says why.
    """
    if reason := why_not(folder):
        print(reason)
        return 1
    page = output / CHECKED
    measured = page.read_text(encoding="utf-8") if page.is_file() else ""
    body = re.search(r"<body>\s*<h1>.*?</h1>(.*)</body>", measured, re.S)
    try:
        said = build_site(folder, output / "site", measured=body[1].strip() if body else "")
    except FileExistsError as error:
        print(error)
        return 1
    print("\n".join(said), end="\n" if said else "")
    print(f"to read: {output / 'index.html'}")
    return 0


def _run_sphinx(source: Path, output: Path) -> list[str]:
    said = source.parent / "warnings.txt"
    done = subprocess.run(
        [sys.executable, "-m", "sphinx", "-q", "-b", "html", "-c", str(Path(__file__).parent),
         "-D", f"html_extra_path={source / 'extra'}", "-d", str(source.parent / "doctrees"),
         "-w", str(said), str(source), str(output)],
        capture_output=True, text=True, env=os.environ | {"PYTHONUTF8": "1"}, check=False)
    if done.returncode:
        raise RuntimeError(f"Sphinx could not build the site:\n{done.stdout}{done.stderr}")
    text = said.read_text(encoding="utf-8") if said.exists() else ""
    return [line for line in text.replace(str(source) + os.sep, "").splitlines() if line.strip()]


@dataclass
class Stage:
    """The folder that Sphinx reads: the repository's pages where its own links look for them."""

    notebooks: Path
    source: Path
    executed: dict[str, Path] | None = None

    def __post_init__(self):
        self.lessons = lessons(self.notebooks)
        self.pages = PAGES | {f"notebooks/{path.name}": f"notebooks/{path.name}"
                              for path in self.lessons}
        self.address = repository_address()
        self.terms = read_terms((REPOSITORY / GLOSSARY).read_text(encoding="utf-8"))

    def fill(self, measured: str) -> None:
        """Write every page."""
        (self.source / "extra").mkdir(parents=True)
        facts = read_facts((REPOSITORY / "README.md").read_text(encoding="utf-8"))
        for path in self.lessons:
            self._lesson(path, facts[path.stem])
        for origin, page in PAGES.items():
            text = (REPOSITORY / origin).read_text(encoding="utf-8")
            if origin == GLOSSARY:
                text = glossary_page(text, {p.name[:2]: p.name for p in self.lessons})
            text = change_links(after_details(text), lambda link, o=origin: self.link(link, o))
            self._write(page, text + (self._contents() if page == "index.md" else ""))
        self._references()
        self._api()
        self._write("measured.md", "# What each lesson takes\n\n"
                    + (f"```{{raw}} html\n{measured}\n```" if measured else _NOT_MEASURED) + "\n")

    def link(self, target: str, origin: str) -> str:
        """The target of a link on a page of the repository, as the site has it.

        Source files become pages, pictures come along. What is neither stays a link to a file, of
        which Sphinx makes a download; of a file that is not there, it warns.
        """
        name, _, anchor = target.partition("#")
        if is_foreign(target) or not name:
            return target
        path = PurePosixPath(os.path.normpath(PurePosixPath(origin).parent / name)).as_posix()
        file = REPOSITORY / path
        if not file.is_file():
            return target
        if path not in self.pages and file.suffix == ".py":
            self._source_page(path)
        elif path not in self.pages:
            (self.source / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, self.source / path)
        here = self.pages.get(origin, origin)
        return relative(self.pages.get(path, path), here) + (f"#{anchor}" if anchor else "")

    def _lesson(self, path: Path, facts) -> None:
        mine = (self.executed or {}).get(path.stem)
        of_this_run = mine is not None and mine.is_file()
        lesson = Lesson(mine if of_this_run else path, facts,
                        self.source / "extra" / "notebooks" / OUTPUTS, self._ways(path.stem),
                        "of your own run" if of_this_run else "as stored in the repository")
        notebook = lesson.for_site(lambda link: self.link(link, f"notebooks/{path.name}"),
                                   TermLinks(self.terms))
        self._write(f"notebooks/{path.name}", nbformat.writes(notebook))

    def _ways(self, stem: str) -> str:
        local = "`make lab` opens it on your machine"
        if not self.address.startswith("https://github.com/"):
            return local
        return (f"[in Colab]({colab_link(stem, self.address)}), "
                f"[in Binder]({binder_link(stem, self.address)}), or {local}")

    def _source_page(self, path: str) -> None:
        """A Python file as a page, for a reader who follows a link to it."""
        page = f"{path.removesuffix('.py')}.source.md"
        self.pages[path] = page
        code = (REPOSITORY / path).read_text(encoding="utf-8").rstrip()
        self._write(page, f"---\norphan: true\n---\n\n# `{path}`\n\n``````python\n{code}\n``````\n")

    def _references(self) -> None:
        """The references, out of the one lesson that says where everything comes from."""
        for path in self.lessons:
            notebook = nbformat.read(path, as_version=4)
            for cell in notebook.cells:
                if re.search(r"^#+ References$", cell.source, re.M):
                    self._write("references.md", f"# References\n\n"
                                f"{section(cell.source, 'References')}\n\nFrom lesson "
                                f"[{title(notebook)}](notebooks/{path.name}).\n")
                    return
        raise ValueError(f"no lesson in {self.notebooks} has a heading References")

    def _api(self) -> None:
        rooms = read_rooms(REPOSITORY / "vlm_utils")
        for room in rooms:
            self._write(f"api/{room.name}.md", room_page(room))
        lines = [f"- [`{room.name}`]({room.name}.md): {room.text.split(chr(10))[0]}"
                 for room in rooms]
        self._write("api/index.md", "# The package `vlm_utils`\n\nFrom the docstrings of each "
                    "room.\n\n" + "\n".join(lines) + "\n\n```{toctree}\n:hidden:\n\n"
                    + "\n".join(room.name for room in rooms) + "\n```\n")

    def _contents(self) -> str:
        parts = [("Lessons", [f"notebooks/{path.name}" for path in self.lessons]), *CONTENTS]
        return "".join("\n\n```{toctree}\n:hidden:\n:caption: " + caption + "\n\n"
                       + "\n".join(re.sub(r"\.(md|ipynb)$", "", page) for page in pages) + "\n```\n"
                       for caption, pages in parts)

    def _write(self, page: str, text: str) -> None:
        path = self.source / page
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
