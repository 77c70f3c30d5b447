"""A project of one chapter, built once, strictly."""

import shutil
from pathlib import Path

import pytest

from helpers import pages

EXAMPLE = Path(__file__).parent / "chapter.md"
ADDRESS = "https://github.com/me/my.book"
ENTRY = "@article{sample2020, author={Sample, Ann}, title={A}, journal={B}, year={2020}}\n"


def make_project(folder, chapter=""):
    """Write a project with the real configuration, style and glossary, and one chapter."""
    chapter = chapter or EXAMPLE.read_text("utf-8")
    book = folder / "book"
    book.mkdir(parents=True)
    shutil.copy(pages.ROOT / "pyproject.toml", folder)
    config = (pages.ROOT / "_config.yml").read_text("utf-8")
    config = config.replace('url: ""', f"url: {ADDRESS}")
    config = config.replace("runs_on_binder: [", "runs_on_binder: [book/01_sample, ")
    (folder / "_config.yml").write_text(config, "utf-8")
    shutil.copytree(pages.ROOT / "book" / "_static", book / "_static")
    shutil.copy(pages.ROOT / "book" / "glossary.md", book)
    (book / "01_sample.md").write_text(chapter, "utf-8")
    (book / "references.bib").write_text(ENTRY)
    contents = "format: jb-book\nroot: book/01_sample\nchapters:\n  - file: book/glossary\n"
    (folder / "_toc.yml").write_text(contents)
    return folder


@pytest.fixture()
def project(tmp_path):
    return make_project(tmp_path / "project")


@pytest.fixture(scope="session")
def built(tmp_path_factory):
    """The example project after a strict build with other settings, its notebook beside it."""
    root = make_project(tmp_path_factory.mktemp("built") / "project")
    # What must never get into a book, though it is Markdown inside the folder.
    (root / ".hidden").mkdir()
    (root / ".hidden" / "stray.md").write_text("# Stray\n")
    pages.pair(root / "book")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRANSFER_PARAMETERS", "seeds=2 profile=tiny")
        pages.build(root)
    return root
