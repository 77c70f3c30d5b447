"""A chapter opened and saved in JupyterLab: both files follow, and no noise comes in."""

import json
import os
import re
import shutil
from fnmatch import fnmatch

import nbformat
import pytest
from jupyter_server.services.contents.largefilemanager import LargeFileManager
from jupytext.sync_contentsmanager import build_sync_jupytext_contents_manager_class

from helpers import pages


@pytest.fixture()
def lab(project):
    """JupyterLab's file manager, with jupytext as its server extension sets it up."""
    pages.pair(project / "book")
    manager = build_sync_jupytext_contents_manager_class(LargeFileManager)()
    manager.root_dir = str(project)
    return manager


@pytest.mark.parametrize("opened", ["book/01_sample.ipynb", "book/01_sample.md"])
def test_saving_one_half_of_a_pair_saves_the_other(project, lab, opened):
    # As if the notebook had been written long after the text: time stamps do not matter.
    os.utime(project / "book" / "01_sample.md", (1, 1))
    model = lab.get(opened, type="notebook")
    assert len(model["content"].cells) > 5
    model["content"].cells[-1].source += "\n# mine"
    lab.save(model, opened)
    text = (project / "book" / "01_sample.md").read_text("utf-8")
    assert "# mine" in text
    twin = nbformat.read(project / "book" / "01_sample.ipynb", as_version=4)
    assert twin.cells[-1].source.endswith("# mine")
    assert pages.pair(project / "book") == [project / "book" / "01_sample.ipynb"]  # they agree


@pytest.mark.parametrize("chapter", pages.chapters(), ids=lambda chapter: chapter.stem)
@pytest.mark.parametrize("kind", [".md", ".ipynb"])
def test_opening_and_saving_changes_no_byte(project, lab, chapter, kind):
    shutil.copy(chapter, project / "book")
    twin = pages.pair(project / "book")[-1]
    before = [file.read_bytes() for file in (project / "book" / chapter.name, twin)]
    opened = f"book/{chapter.stem}{kind}"
    lab.save(lab.get(opened, type="notebook"), opened)
    assert [f.read_bytes() for f in (project / "book" / chapter.name, twin)] == before


def test_one_entry_per_chapter_and_a_start_page_that_leads_to_each(project):
    settings = json.loads((pages.ROOT / "lab" / "jupyter_lab_config.json").read_text("utf-8"))
    hidden = settings["ContentsManager"]["hide_globs"]
    assert all(any(fnmatch(c.name, glob) for glob in hidden) for c in pages.chapters())
    start = pages.ROOT / settings["LabApp"]["default_url"].removeprefix("/lab/tree/")
    (shown,) = nbformat.read(start, as_version=4).cells
    linked = re.findall(r"^\d+\. \[(.+)\]\((.+)\)", shown.source, re.MULTILINE)
    texts = [chapter.read_text("utf-8") for chapter in pages.chapters()]
    titles = [text.partition("\n# ")[2].partition("\n")[0] for text in texts]
    assert linked == [(t, f"{c.stem}.ipynb") for t, c in zip(titles, pages.chapters(), strict=True)]
