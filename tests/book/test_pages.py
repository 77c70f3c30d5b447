import json
import os
import time

import nbformat
import pytest

from helpers import book, pages
from helpers.errors import HelpfulError, UnknownName
from helpers.files import cores
from tests.book.conftest import EXAMPLE, make_project

CELL = "```{code-cell} ipython3\n"


def chapter_of(project):
    return project / "book" / "01_sample.md"


def test_chapters_are_found_by_number_and_name(project, capsys):
    for name in ("01", "01_sample", "sample", "book/01_sample.md"):
        assert pages.find(name, project / "book") == chapter_of(project)
    assert pages.chapters(project / "book") == [chapter_of(project)]  # only files with code
    for name in ("", "02", "sampel"):
        with pytest.raises(UnknownName, match="01_sample"):
            pages.find(name, project / "book")
    assert pages.main(["run", "no-such-chapter"]) == 1
    assert "unknown chapter" in capsys.readouterr().err


def test_pairing_is_stable_without_outputs_and_a_changed_cell_or_tag_is_a_difference(project):
    (twin,) = pages.pair(project / "book")
    first = twin.read_bytes()
    notebook = json.loads(first)
    assert all(not cell.get("outputs") for cell in notebook["cells"])
    nbformat.validate(notebook)
    assert len({cell["id"] for cell in notebook["cells"]}) == len(notebook["cells"])
    assert pages.pair(project / "book") == []
    twin.unlink()
    assert pages.pair(project / "book") == [twin] and twin.read_bytes() == first
    text = EXAMPLE.read_text("utf-8")
    for old, new in (("seeds=3", "seeds=4"), ("[parameters]", "[parameter]"), ("Does a", "Has a")):
        for changed in (text.replace(old, new), text):
            chapter_of(project).write_text(changed, "utf-8")
            assert pages.pair(project / "book") == [twin]
    assert twin.read_bytes() == first


def edited(twin, source="\n# mine", outputs=()):
    notebook = nbformat.read(twin, as_version=4)
    notebook.cells[-1].source += source
    next(cell for cell in notebook.cells if cell.cell_type == "code").outputs += outputs
    nbformat.write(notebook, twin)


@pytest.mark.parametrize("later", ["notebook", "chapter", "neither"])
@pytest.mark.parametrize("both", [True, False])
def test_an_edit_in_the_notebook_is_not_overwritten_whatever_the_clock_says(project, later, both):
    (twin,) = pages.pair(project / "book")
    chapter = chapter_of(project)
    edited(twin)
    if both:
        chapter.write_text(EXAMPLE.read_text("utf-8").replace("Does a", "Has a"), "utf-8")
    for file, name in ((twin, "notebook"), (chapter, "chapter")):
        os.utime(file, (1, time.time() + 60 if name == later else 1))
    said = "both changed" if both else "01_sample.ipynb alone changed"
    with pytest.raises(HelpfulError, match=f"{said}(.|\n)*jupytext --to md:myst"):
        pages.pair(project / "book")
    assert "# mine" in twin.read_text("utf-8")
    twin.unlink()
    assert pages.pair(project / "book") == [twin]


def test_an_edit_or_an_address_is_written_to_an_older_or_newer_notebook(project, monkeypatch):
    (twin,) = pages.pair(project / "book")
    os.utime(twin, (time.time() + 60, time.time() + 60))
    chapter_of(project).write_text(EXAMPLE.read_text("utf-8").replace("Does a", "Has a"), "utf-8")
    assert pages.pair(project / "book") == [twin] and "Has a" in twin.read_text("utf-8")
    assert "--depth 1 ADDRESS transfer-book" in chapter_of(project).read_text("utf-8")
    monkeypatch.setattr(pages, "address", lambda: "https://github.com/me/my.book")
    assert pages.pair(project / "book") == [twin]
    for file in (twin, chapter_of(project)):
        assert "--depth 1 https://github.com/me/my.book transfer-book" in file.read_text("utf-8")


def test_outputs_of_a_session_stay_until_the_text_changes(project):
    (twin,) = pages.pair(project / "book")
    clean, noise = twin.read_bytes(), nbformat.v4.new_output("stream", text="noise")
    edited(twin, source="", outputs=[noise])
    before = twin.read_bytes()
    assert pages.pair(project / "book") == [] and twin.read_bytes() == before
    # What JupyterLab saved on both sides is common text from now on.
    edited(twin)
    code = EXAMPLE.read_text("utf-8").replace("provenance()", "provenance()\n# mine")
    chapter_of(project).write_text(code, "utf-8")
    assert pages.pair(project / "book") == [twin] and "noise" in twin.read_text("utf-8")
    chapter_of(project).write_text(EXAMPLE.read_text("utf-8"), "utf-8")
    assert pages.pair(project / "book") == [twin] and twin.read_bytes() == clean
    edited(twin, source="", outputs=[noise])
    pages.pair(project / "book", clear=True)
    assert twin.read_bytes() == clean


def test_one_chapter_runs_with_other_settings_and_a_failing_one_says_so(project, monkeypatch):
    monkeypatch.setattr(pages, "ROOT", project)
    with pytest.raises(UnknownName, match="Did you mean 'seeds'"):  # before anything runs
        pages.run("01", ["seed=2"], project / "book")
    made = pages.run("01", ["seeds=2", "languages=de,sw"], project / "book")
    cells = nbformat.read(made, as_version=4).cells
    outputs = [str(output) for cell in cells for output in cell.get("outputs", [])]
    assert any("sample.csv (4 rows" in output for output in outputs)
    page = made.with_suffix(".html").read_text("utf-8")
    assert "Run with seeds=2 languages=de,sw." in page and "mean is" in page
    made.with_suffix(".html").unlink()
    text = EXAMPLE.read_text("utf-8").replace("random = np.random", "1 / 0\nrandom = np.random")
    chapter_of(project).write_text(text, "utf-8")
    with pytest.raises(HelpfulError, match="ZeroDivisionError"):
        pages.run("01", [], project / "book")
    failed = (project / "_build" / "chapters").glob("*.html")
    assert [file.name for file in failed] == ["01_sample-failed.html"]


HEADER = EXAMPLE.read_text("utf-8").partition("# Measure")[0] + "# Slim\n\n"
FAULTS = {
    "See [here](#nowhere).": "target not found: 'nowhere'",
    "See [there](02_nowhere.ipynb).": "02_nowhere.md",
    "See {cite:t}`nobody1999`.": "could not find bibtex key",
    "A [word](glossary.md#nobody-explains).": "local id not found in doc 'book/glossary'",
    "![none](nothing.png)": "image file not readable: book/nothing.png",
}


def test_a_strict_build_refuses_a_failing_cell_and_names_every_broken_reference(tmp_path, capfd):
    project = make_project(tmp_path / "p", HEADER + CELL + "1 / 0\n```\n")
    with pytest.raises(HelpfulError, match="01_sample.md: (.|\n)*1 / 0(.|\n)*ZeroDivisionError"):
        pages.build(project)
    assert not (project / "_build" / "html" / ".built-from.json").exists()
    project = make_project(tmp_path / "q", HEADER + "\n\n".join(FAULTS) + "\n")
    with pytest.raises(HelpfulError, match="the book was not built"):
        pages.build(project)
    said = "".join(capfd.readouterr())
    assert [fault for fault, warning in FAULTS.items() if warning not in said] == [], said


# Chapters that are executed side by side before a build.

MEET = """
import pathlib, time
mine, other = pathlib.Path("{mine}"), pathlib.Path("{other}")
mine.touch()
deadline = time.monotonic() + 60
while not other.exists() and time.monotonic() < deadline:
    time.sleep(0.05)
assert other.exists(), "ran alone"
"""


def chapter(folder, name, code, prose=""):
    file = folder / f"{name}.md"
    file.write_text(f"{HEADER}{CELL}{code}\n```\n\n{prose}\n", "utf-8")
    return file


@pytest.mark.skipif(cores() < 2, reason="one core runs one chapter at a time")
def test_chapters_run_side_by_side(tmp_path):
    asked = ("01_one", "a", "b"), ("02_two", "b", "a")
    files = [chapter(tmp_path, name, MEET.format(mine=m, other=o)) for name, m, o in asked]
    assert pages.execute_missing(files, tmp_path / "cache") == ["01_one", "02_two"]


def test_only_changed_code_is_executed_again_by_kernels_that_share_the_cores(tmp_path, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setenv("MPLBACKEND", "pdf")
    names, cache = [book.BUILDING, "OMP_NUM_THREADS", "MPLBACKEND"], tmp_path / "cache"
    code = f"import os\nwith open('said', 'a') as file:\n    print(*map(os.getenv, {names}), file=file)"
    assert pages.execute_missing([chapter(tmp_path, "01_one", code)], cache) == ["01_one"]
    assert pages.execute_missing([chapter(tmp_path, "01_one", code, "More prose.")], cache) == []
    again = pages.execute_missing([chapter(tmp_path, "01_one", f"{code}\n1 + 1")], cache)
    assert again == ["01_one"]
    said = [line.split() for line in (tmp_path / "said").read_text().splitlines()]
    assert [line[:2] for line in said] == [["1", str(cores())]] * 2  # a book is built, they know
    assert "pdf" not in {line[2] for line in said}


def test_a_failure_keeps_what_the_others_did(tmp_path, capsys):
    good, bad = chapter(tmp_path, "01_good", "40 + 2"), chapter(tmp_path, "02_bad", "1 / 0")
    cache = tmp_path / "cache"
    with pytest.raises(HelpfulError, match="02_bad.md: (.|\n)*ZeroDivisionError") as caught:
        pages.execute_missing([good, bad], cache)
    assert "01_good" not in str(caught.value) and "\x1b" not in str(caught.value)
    assert "02_bad: failed after" in capsys.readouterr().out
    assert pages.execute_missing([good], cache) == []
    with pytest.raises(HelpfulError, match="02_bad"):  # a failure is not remembered as done
        pages.execute_missing([bad], cache)
