"""The site: built once from the notebooks as they are stored, then read as a visitor reads it."""

import json
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import nbformat
import pytest
import yaml
from browser import Browser, find_chromium

from vlm_utils.course.address import binder_link, colab_link
from vlm_utils.course.exercises import exercises
from vlm_utils.course.report import CellRun, LessonRun, measured_html
from vlm_utils.course.site import build_site, why_not
from vlm_utils.course.site.api import as_markdown
from vlm_utils.course.site.glossary import Term, TermLinks, glossary_page, read_terms
from vlm_utils.course.site.lessons import Lesson, read_facts
from vlm_utils.course.site.markdown import change_links, rows, section
from vlm_utils.profiles import REPOSITORY

NOTEBOOKS = REPOSITORY / "notebooks"
LESSONS = sorted(path.stem for path in NOTEBOOKS.glob("[0-9][0-9]_*.ipynb"))
AXE = "axe-core@4.14.1"
ADDRESS = "https://github.com/somebody/course"


class Page(HTMLParser):
    """What a page links to, loads and shows."""

    def __init__(self, text: str):
        super().__init__()
        self.links, self.loads, self.images, self.ids, self.title = [], [], [], set(), ""
        self._in_title = False
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.ids.add(found.get("id"))
        self._in_title = tag == "title"
        if tag == "a" and "href" in found:
            self.links.append(found["href"])
        if tag in ("script", "img", "iframe", "source") and "src" in found:
            self.loads.append(found["src"])
        if tag == "link" and found["rel"] not in ("next", "prev", "search", "index"):
            self.loads.append(found["href"])
        if tag == "img":
            self.images.append(found)

    def handle_data(self, data):
        if self._in_title:
            self.title, self._in_title = data, False


@pytest.fixture(scope="session")
def built(tmp_path_factory):
    """The site, with one lesson from a run of one's own; its folder and the warnings of Sphinx."""
    if reason := why_not(NOTEBOOKS):
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("site")
    own = nbformat.read(NOTEBOOKS / "06_memory_cleanup.ipynb", as_version=4)
    next(c for c in own.cells if c.cell_type == "code").outputs = [
        nbformat.v4.new_output("stream", text="printed by my own run")]
    nbformat.write(own, folder / "06_memory_cleanup.ipynb")
    measured = measured_html([LessonRun("04_training", [CellRun(1, "import x", "ok", 3.21, 456)])])
    environment = pytest.MonkeyPatch()
    environment.setenv("GITHUB_REPOSITORY", "somebody/course")
    environment.setenv("GITHUB_SERVER_URL", "https://github.com")
    try:
        warnings = build_site(NOTEBOOKS, folder / "site", {
            "06_memory_cleanup": folder / "06_memory_cleanup.ipynb",
            "05_evaluation": folder / "was_not_written.ipynb"}, measured)
    finally:
        environment.undo()
    return folder / "site", warnings


@pytest.fixture(scope="session")
def pages(built):
    """Every page that a visitor can come to, by its path."""
    return {path: Page(path.read_text(encoding="utf-8")) for path in built[0].rglob("*.html")
            if "_static" not in path.relative_to(built[0]).parts}


def text_of(site: Path, name: str) -> str:
    return (site / name).read_text(encoding="utf-8")


def test_sphinx_has_nothing_to_complain_about(built):
    assert built[1] == []


def test_every_internal_link_leads_to_a_page_and_to_a_place_on_it(pages):
    followed, broken = 0, []
    for path, page in pages.items():
        for link in page.links:
            if re.match(r"[a-z]+:", link) or link == "#":
                continue
            name, _, anchor = unquote(link).partition("#")
            target = (path.parent / name).resolve() if name else path
            followed += 1
            if not target.is_file() or (
                    anchor and target in pages and anchor not in pages[target].ids):
                broken.append(f"{path.name}: {link}")
    assert followed > 1000 and broken == []


def test_nothing_is_asked_of_another_host_and_everything_asked_for_is_there(pages):
    loaded, foreign, missing = 0, [], []
    for path, page in pages.items():
        for name in page.loads:
            loaded += 1
            if re.match(r"([a-z]+:)?//", name):
                foreign.append(f"{path.name}: {name}")
            elif not name.startswith("data:") and not (
                    path.parent / unquote(name.partition("?")[0])).is_file():
                missing.append(f"{path.name}: {name}")
    assert loaded > 500 and foreign == [] and missing == []


def test_style_sheets_fetch_nothing_either(built):
    sheets = list((built[0] / "_static").rglob("*.css"))
    assert len(sheets) >= 4
    fetched = re.compile(r"(?:url\(|@import\s+)['\"]?(?:https?:)?//")
    assert [path.name for path in sheets if fetched.search(path.read_text("utf-8"))] == []


def test_every_picture_of_a_lesson_is_shown_as_a_file_with_its_alternative_text(built, pages):
    assert all((image.get("alt") or "").strip() for page in pages.values() for image in page.images)
    for stem in LESSONS:
        wanted = [out.metadata["image/png"]["alt"]
                  for cell in nbformat.read(NOTEBOOKS / f"{stem}.ipynb", as_version=4).cells
                  for out in cell.get("outputs", []) if "image/png" in out.get("data", {})]
        shown = [image["alt"] for image in pages[built[0] / f"notebooks/{stem}.html"].images]
        assert len(wanted) >= 2 and [text for text in wanted if text not in shown] == [], stem
    assert not any(image["src"].startswith("data:") for page in pages.values()
                   for image in page.images)


def test_pages_have_titles_of_their_own(built, pages):
    titles = [page.title for page in pages.values()]
    assert len(set(titles)) == len(titles) and "" not in titles
    for stem in LESSONS:
        assert pages[built[0] / f"notebooks/{stem}.html"].title.startswith(f"{stem[:2]} · ")


def test_lessons_follow_each_other(built):
    for before, after in zip(LESSONS, LESSONS[1:], strict=False):
        assert re.search(rf'class="right-next"[^>]*href="{after}.html"|href="{after}.html"[^>]*'
                         r'title="next page"', text_of(built[0], f"notebooks/{before}.html"), re.S)


def test_search_knows_the_words_of_a_lesson(built):
    text = text_of(built[0], "searchindex.js")
    index = json.loads(text.removeprefix("Search.setIndex(").rstrip(");\n"))
    hits = index["titleterms"]["collat"]         # words are stored by their stems
    names = {index["docnames"][i] for i in (hits if isinstance(hits, list) else [hits])}
    assert "notebooks/03_collate" in names
    assert len(index["terms"]["collat"]) >= 5
    assert "vlm_utils.collate" in index["objects"]


@pytest.mark.parametrize("stem", LESSONS)
def test_the_card_of_a_lesson_says_what_the_readme_says(built, stem):
    facts = read_facts((REPOSITORY / "README.md").read_text("utf-8"))[stem]
    page = text_of(built[0], f"notebooks/{stem}.html")
    card = page.split('id="at-a-glance"')[1].split("</ul>")[0]
    plain = re.sub(r"\s+", " ", re.sub("<[^>]+>", "", card)).replace("’", "'")
    own = [e for e in exercises() if e.lesson == stem[:2]]
    time = "under a minute" if facts.minutes < 1 else f"about {facts.minutes:.0f} minutes"
    assert f"Runs in {time} on 2 CPU cores, with {facts.memory} of memory" in plain
    assert facts.teaches.replace("`", "") in plain
    assert f"Exercises: {len(own)}, about " in plain and "You need:" in plain
    assert colab_link(stem, ADDRESS) in card and binder_link(stem, ADDRESS) in card


def test_a_lesson_of_ones_own_run_shows_that_run_and_says_so(built):
    mine = text_of(built[0], "notebooks/06_memory_cleanup.html")
    assert "printed by my own run" in mine and "of your own run" in mine
    stored = text_of(built[0], "notebooks/05_evaluation.html")     # its run has written nothing
    assert "as stored in the repository" in stored and "of your own run" not in stored


def test_hints_and_solutions_are_there_and_folded(built):
    for exercise in exercises():
        stem = next(name for name in LESSONS if name.startswith(exercise.lesson))
        page = text_of(built[0], f"notebooks/{stem}.html")
        folds = [re.sub(r"\s+", " ", re.sub("<[^>]+>", "", part.split("</details>")[0]))
                 for part in page.split("<details")[1:]]
        last = exercise.solution.read_text("utf-8").strip().split("\n")[-1].split()[-1]
        assert any("Show the solution" in fold and f"def {exercise.name}(" in fold
                   for fold in folds), exercise.stem
        assert last and sum("Hint" in fold for fold in folds) >= 1
        assert f"%load ../solutions/{exercise.stem}" not in page


def test_the_explorer_is_a_still_picture_with_a_way_to_the_live_one(built):
    page = text_of(built[0], "notebooks/05_evaluation.html")
    still = page.split('<figure class="still">')[1].split("</figure>")[0]
    assert "<img alt=" in still and 'href="#at-a-glance"' in still
    assert "VBox(children" not in page


def test_terms_lead_to_the_glossary(built):
    page = text_of(built[0], "notebooks/01_architecture.html")
    for term in ("projector", "vision-encoder", "KV-cache", "patch"):
        assert page.count(f'href="glossary.html#term-{term}"') == 1, term
    words = [word for terms in read_terms((NOTEBOOKS / "glossary.md").read_text("utf-8")).values()
             for term in terms for word in term.words]
    assert text_of(built[0], "notebooks/glossary.html").count('<dt id="term-') == len(words) >= 40


def test_the_reference_has_what_lessons_import(built):
    index = json.loads(text_of(built[0], "searchindex.js").removeprefix(
        "Search.setIndex(").rstrip(");\n"))["objects"]
    for room, name in (("training", "train"), ("architecture", "MultiImageVLM"),
                       ("evaluation", "evaluate"), ("memory", "release"), ("collate", "collate")):
        assert name in {entry[-1] for entry in index[f"vlm_utils.{room}"]}, name
    page = text_of(built[0], "api/vlm_utils.collate.html")
    assert "No padding image is made." in page


def test_instructors_find_what_was_measured(built):
    page = text_of(built[0], "measured.html")
    assert "<td>04_training</td>" in page and "3.21" in page and "456" in page


def test_the_folder_of_the_site_is_opened_by_the_page_beside_it(built):
    page = text_of(built[0].parent, "index.html")
    assert 'url=site/index.html"' in page and (built[0] / "index.html").is_file()


# --- pieces ------------------------------------------------------------------------------------

def test_links_in_code_are_no_links():
    text = "[a](b.md) `[a](b.md)`\n```\n[a](b.md)\n```\n![p](c.png \"t\")"
    assert change_links(text, str.upper) == \
        "[a](B.MD) `[a](b.md)`\n```\n[a](b.md)\n```\n![p](C.PNG \"t\")"


def test_a_term_is_linked_once_in_prose_and_nowhere_else():
    links = TermLinks({"x": [Term(("weight decay",), "m", "04"), Term(("decay",), "m", "04"),
                             Term(("patch",), "m", "01")]})
    text = "## A patch\n`patch` [patch](x.md) <b title=patch>two patches</b>, weight\ndecay, decay"
    once = links.link(text)
    assert once == ("## A patch\n`patch` [patch](x.md) <b title=patch>two {term}`patches <patch>`"
                    "</b>, {term}`weight decay <weight decay>`, {term}`decay <decay>`")
    assert links.link("a patch") == "a patch"


def test_a_row_of_the_glossary_without_its_lesson_is_refused():
    with pytest.raises(ValueError, match="is not word, meaning and lesson"):
        read_terms("## A\n| word | meaning |\n|---|---|\n| **x** | y |\n")
    page = glossary_page("# G\n\n## A\n\n| w | m | l |\n|---|---|---|\n| **x, y** | z | 01 |\n",
                         {"01": "01_a.ipynb"})
    assert "x\ny\n  z ([lesson 01](01_a.ipynb))" in page


def test_tables_and_sections_are_read_as_they_stand():
    assert rows("| a | b |\n|---|:-:|\n| 1 | x \\| y |\n\ntext") == [["1", "x \\| y"]]
    assert section("# A\n## B\nx\n### C\ny\n## D\nz", "B") == "x\n### C\ny"
    with pytest.raises(ValueError, match="no heading 'E'"):
        section("# A", "E")
    with pytest.raises(ValueError, match="no table"):
        read_facts("| [01 a](elsewhere.ipynb) | b | c | 1 | 2 |")


def test_a_docstring_is_shown_letter_by_letter():
    text = as_markdown("One <image_1> a*b*.\n\nnum_images: of `x*y`,\nnot: this", ("num_images",))
    assert text == "One \\<image\\_1\\> a\\*b\\*.\n\n- **num\\_images:** of `x*y`,\nnot: this"


def test_a_students_own_figure_and_first_cell_do_not_stop_the_site(tmp_path):
    out = nbformat.v4.new_output("display_data", {"image/png": PIXEL, "text/plain": "<Figure>"})
    cells = [nbformat.v4.new_markdown_cell("# Mine"),
             nbformat.v4.new_code_cell("plt.show()", outputs=[out])]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "01_architecture.ipynb")
    facts = read_facts((REPOSITORY / "README.md").read_text("utf-8"))["01_architecture"]
    lesson = Lesson(tmp_path / "01_architecture.ipynb", facts, tmp_path / "out", "make lab", "own")
    notebook = lesson.for_site(lambda link: link, TermLinks({}))
    assert "At a glance" in notebook.cells[0].source
    shown = notebook.cells[1].outputs[0].data["text/html"]
    name = re.search(r'alt="A figure without a description" src="outputs/([^"]+)" width="1"', shown)
    assert (tmp_path / "out" / name[1]).is_file()


PIXEL = ("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5"
         "ErkJggg==")


def test_addresses_that_are_not_on_github_are_refused():
    for link in (colab_link, binder_link):
        with pytest.raises(ValueError, match="not the address of a repository on GitHub"):
            link("01_architecture", "https://example.org/x/y")


def test_without_the_extra_it_is_said_how_to_get_it():
    code = ("import sys; sys.modules['sphinx'] = None\n"
            "import importlib.util as u; real = u.find_spec\n"
            "u.find_spec = lambda name: None if name == 'sphinx' else real(name)\n"
            "from vlm_utils.course.site import why_not; from pathlib import Path\n"
            f"print(why_not(Path({str(NOTEBOOKS)!r})))")
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True,
                          text=True, check=True)
    assert "sphinx not installed" in done.stdout and ".[site]" in done.stdout


def test_the_workflow_publishes_what_the_command_builds():
    text = (REPOSITORY / ".github/workflows/site.yml").read_text("utf-8")
    job, = yaml.safe_load(text)["jobs"].values()
    steps = [step.get("run", "") or step["uses"] for step in job["steps"]]
    assert any("constraints.txt" in step and "[site]" in step for step in steps)
    assert "python -m vlm_utils site" in steps
    upload = next(step for step in job["steps"] if "upload-pages" in step.get("uses", ""))
    assert upload["with"]["path"] == "build/site"
    assert any("deploy-pages" in step for step in steps)


# --- in a browser ------------------------------------------------------------------------------

@pytest.fixture(scope="session")
def browser(tmp_path_factory):
    if not find_chromium():
        pytest.skip("no Chromium here: install it from the system's packages, or name it in "
                    "CHROMIUM")
    browser = Browser(tmp_path_factory.mktemp("chromium"))
    yield browser
    browser.close()


@pytest.fixture(scope="session")
def axe(tmp_path_factory):
    """The script that looks for barriers, from npm; None where npm or its network is missing."""
    folder, npm = tmp_path_factory.mktemp("axe"), shutil.which("npm")
    if not npm or subprocess.run(
            [npm, "install", "--no-audit", "--no-fund", "--prefix", str(folder), AXE],
            capture_output=True, check=False).returncode:
        return None
    return (folder / "node_modules/axe-core/axe.min.js").read_text(encoding="utf-8")


@pytest.fixture(scope="session")
def kinds(built):
    """Every page that is written by hand, and some of those that are made like their neighbours."""
    by_hand = [path for path in sorted(built[0].rglob("*.html"))
               if not {"_static", "api"} & set(path.relative_to(built[0]).parts)
               and not path.name.endswith(".source.html")]
    alike = ["api/index.html", "api/vlm_utils.training.html", "api/vlm_utils.profiles.html",
             "solutions/01_1_interleave.source.html"]
    return by_hand + [built[0] / name for name in alike]


@pytest.fixture(scope="session", params=[(390, True), (1280, False)], ids=["phone", "desk"])
def visits(request, browser, axe, kinds):
    """Each page opened once, on a phone in the dark and on a desk in the light: what is wrong."""
    width, dark = request.param
    browser.resize(width, dark=dark)
    wide, barriers = [], []
    for path in kinds:
        browser.open(path.as_uri())
        assert browser.run("document.documentElement.dataset.theme") == ("dark" if dark
                                                                         else "light")
        if browser.run("document.documentElement.scrollWidth > innerWidth"):
            wide.append(path.name)
        browser.run(f"{axe or ''};1")
        faults = axe and browser.run("""axe.run(document, {resultTypes: ['violations']}).then(
            result => result.violations.filter(
                each => ['serious', 'critical'].includes(each.impact)).map(
                each => each.id + ': ' + each.nodes[0].html.slice(0, 200)))""")
        barriers += [f"{path.name}: {fault}" for fault in faults or []]
    return wide, barriers


def test_no_page_is_wider_than_the_window(browser, kinds, visits):
    assert len(kinds) > 20 and visits[0] == [] and browser.errors == []


def test_nobody_is_kept_out(axe, visits):
    """No serious fault of accessibility, in the eyes of axe-core."""
    if axe is None:
        pytest.skip(f"npm could not fetch {AXE} here")
    assert visits[1] == []


def test_a_wide_table_scrolls_in_its_box_and_says_so(browser, built):
    wide = """[...document.querySelectorAll('.scrolls')].map(box =>
        [box.previousElementSibling.textContent, box.tabIndex, box.scrollWidth > box.clientWidth,
         box.getBoundingClientRect().right <= innerWidth])"""
    browser.resize(390)
    browser.open((built[0] / "index.html").as_uri())
    found = browser.run(wide)
    assert len(found) >= 1
    assert all(say.endswith("scroll it sideways.") and tab == 0 and over and within
               for say, tab, over, within in found)
    browser.resize(1280)        # room for all of it: nothing to say
    browser.wait("document.querySelectorAll('.scrolls, .scrolls-note').length === 0")


@pytest.mark.parametrize("page", ["notebooks/04_training.html", "measured.html"])
def test_columns_of_tables_do_not_run_into_each_other(browser, built, page):
    """Seen: a loss and the learning rate beside it, read as one number."""
    browser.resize(1280)
    browser.open((built[0] / page).as_uri())
    gaps = browser.run("""[...document.querySelectorAll('td + td')].map(cell =>
        parseFloat(getComputedStyle(cell).paddingLeft)
        + parseFloat(getComputedStyle(cell.previousElementSibling).paddingRight))""")
    assert len(gaps) >= 6 and min(gaps) >= 8


def test_the_search_finds_collate(browser, built):
    browser.resize(1280)
    browser.open((built[0] / "search.html").as_uri() + "?q=collate")
    browser.wait("[...document.querySelectorAll('#search-results li a')]"
                 ".some(a => a.href.includes('notebooks/03_collate.html'))")


def test_nothing_but_the_files_of_the_site_has_been_asked_for(browser, built):
    browser.open((built[0] / "notebooks/05_evaluation.html").as_uri())
    assert len(browser.requests) > 10
    assert [address for address in browser.requests
            if not address.startswith((built[0].as_uri(), "data:", "about:"))] == []


def test_axe_finds_what_is_wrong(browser, axe, tmp_path):
    """Else the test above could pass without looking."""
    if axe is None:
        pytest.skip(f"npm could not fetch {AXE} here")
    (tmp_path / "bad.html").write_text("<html><body><img src='x.png'></body></html>")
    browser.open((tmp_path / "bad.html").as_uri())
    browser.run(f"{axe};1")
    ids = browser.run("axe.run(document).then(result => result.violations.map(each => each.id))")
    assert {"image-alt", "html-has-lang"} <= set(ids)
