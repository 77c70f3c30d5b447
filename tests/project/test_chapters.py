import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from helpers import files, pages
from tests.project.chapter_rules import Chapter, asserted, complaints, typed_numbers

EXAMPLE = Path(__file__).parent.parent / "book" / "chapter.md"
SPOILT = Path(__file__).parent / "spoilt.yaml"
CHAPTERS = [Chapter.of(file) for file in pages.chapters()]


@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda chapter: chapter.name)
def test_a_chapter_keeps_to_the_skeleton_and_its_code_is_clean(chapter):
    code = "\n\n".join(c.source for c in chapter.code if "git clone" not in c.source)
    rules = ["--select", "E7,E9,F,B", "--ignore", "B018,E703"]
    done = subprocess.run(
        [sys.executable, "-m", "ruff", "check", *rules, "-"],
        input=f"{code}\n", capture_output=True, encoding="utf-8",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    assert complaints(chapter) == []


def test_every_pair_agrees_without_outputs_and_every_page_is_in_the_contents(tmp_path):
    shutil.copy(pages.ROOT / "pyproject.toml", tmp_path)
    assert pages.pair(shutil.copytree(pages.ROOT / "book", tmp_path / "book")) == []
    for chapter in pages.chapters():
        twin = chapter.with_suffix(".ipynb")
        # What a reader saved in JupyterLab since is theirs, and stays out of commits.
        git = ["git", "-C", str(pages.ROOT), "show", f"HEAD:./book/{twin.name}"]
        done = subprocess.run(git, capture_output=True, encoding="utf-8")
        text = twin.read_text("utf-8") if done.returncode else done.stdout
        assert all(not cell.get("outputs") for cell in json.loads(text)["cells"]), chapter.stem
    contents = (pages.ROOT / "_toc.yml").read_text("utf-8")
    listed = {yaml.safe_load(contents)["root"], *re.findall(r"file: (\S+)", contents)}
    assert listed == {f"book/{file.stem}" for file in (pages.ROOT / "book").glob("*.md")}


def test_colab_cells_fetch_the_configured_repository():
    fetched = f"--depth 1 {files.address() or 'ADDRESS'} transfer-book\n"
    for chapter in [*CHAPTERS, Chapter.of(EXAMPLE)]:
        (fetching,) = [cell.source for cell in chapter.code if "git clone" in cell.source]
        assert fetched in fetching, chapter.name


def test_the_example_is_a_good_chapter_and_numbers_of_the_front_page_are_asserted():
    assert complaints(Chapter.of(EXAMPLE)) == []
    known = set().union(*map(asserted, CHAPTERS))
    assert typed_numbers(Chapter.of(pages.ROOT / "book" / "index.md"), known) == []


TEXT = EXAMPLE.read_text("utf-8")


@pytest.mark.parametrize(("old", "new", "expected"), yaml.safe_load(SPOILT.read_text("utf-8")))
def test_the_rules_notice(old, new, expected):
    assert TEXT.count(old) >= 1
    found = complaints(Chapter(TEXT.replace(old, new)))
    if expected is None:  # the takeaways still refer to the figure
        assert found == []
    else:
        assert any(expected in text for text in found), found


def test_the_rules_leave_names_and_conventions_alone():
    for sentence in (
        "It began in 2020 with XLM-R, mT5 and a 4-bit e5.",
        "The code `x = 0.5` and the formula $p < 0.05$ are no claims.",
        "<!-- typed: a convention, not a result -->\nWe test at 5 %.",
        "1. First\n2. Second",
        "See [the standard](https://example.org/639-1.html).",
    ):
        assert complaints(Chapter(TEXT.replace("Nothing here was measured.", sentence))) == []


def test_long_cells_many_cells_and_a_drawing_without_facts_are_noticed():
    cell = "```{code-cell} ipython3\nx = 1\n```\n"
    for more, said in (
        (cell * 37, "code cells; at most"),
        (cell.replace("x = 1", "x = 1\n" * 26), "a cell has 26 lines"),
        (cell.replace("x = 1", "fig, ax = plt.subplots()"), "draws without"),
    ):
        found = complaints(Chapter(TEXT.replace("## Exercises", f"{more}\n## Exercises")))
        assert any(said in text for text in found)
