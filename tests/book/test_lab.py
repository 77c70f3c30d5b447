"""A chapter opened and saved in JupyterLab: both files follow, and no noise comes in."""

import os

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
    model = lab.get(opened, type="notebook")
    model["content"].cells[-1].source += "\n# mine"
    lab.save(model, opened)
    text = (project / "book" / "01_sample.md").read_text("utf-8")
    assert "# mine" in text
    twin = nbformat.read(project / "book" / "01_sample.ipynb", as_version=4)
    assert twin.cells[-1].source.endswith("# mine")
    assert pages.differing(project / "book") == []


def test_opening_and_saving_leaves_the_text_as_it_was(project, lab):
    before = (project / "book" / "01_sample.md").read_text("utf-8")
    model = lab.get("book/01_sample.ipynb", type="notebook")
    lab.save(model, "book/01_sample.ipynb")
    assert (project / "book" / "01_sample.md").read_text("utf-8") == before


def test_time_stamps_of_a_checkout_do_not_matter(project, lab):
    chapter = project / "book" / "01_sample.md"
    os.utime(chapter, (1, 1))  # as if the notebook had been written long after the text
    model = lab.get("book/01_sample.ipynb", type="notebook")
    assert len(model["content"].cells) > 5
