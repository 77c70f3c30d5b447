"""The book itself, built strictly from a study that really ran: tiny, but every step of the way."""

import os
import re
import shutil
import subprocess
import sys

import pytest

from helpers import files, pages
from tests.book.test_build import Images


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The book, built in a copy of the project from a tiny study in a store of its own."""
    root = tmp_path_factory.mktemp("whole") / "book-project"
    root.mkdir()
    for name in ("_config.yml", "_toc.yml", "constraints.txt", "CITATION.cff"):
        shutil.copy(pages.ROOT / name, root)
    shutil.copytree(pages.ROOT / "book", root / "book")
    if (pages.ROOT / "data").is_dir():
        skip = shutil.ignore_patterns("store")
        shutil.copytree(pages.ROOT / "data", root / "data", ignore=skip)
    settings = {"TRANSFER_STORE": str(root / "store"), "TRANSFER_PARAMETERS": "profile=tiny"}
    command = [sys.executable, "-m", "helpers.study", "--profile", "tiny", "--seeds", "2"]
    done = subprocess.run(command, env=os.environ | settings, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    with pytest.MonkeyPatch.context() as patch:
        for name, value in settings.items():
            patch.setenv(name, value)
        pages.build(root)
    return root / "_build" / "html"


def shown(whole):
    for file in sorted((whole / "book").glob("*.html")):
        text = file.read_text("utf-8")
        if "<article" in text:
            yield file.stem, text[text.index("<article") : text.rindex("</article>")]


def test_every_chapter_became_a_page(whole):
    assert {file.stem for file in pages.chapters()} <= {name for name, _ in shown(whole)}


def test_every_picture_is_a_captioned_figure_with_a_text(whole):
    for name, text in shown(whole):
        images = Images()
        images.feed(text)
        assert all(image.get("alt", "").strip() for image in images.found), name
        drawn = [image for image in images.found if image.get("class") != "hero"]
        assert len(drawn) == images.figures == text.count("caption-number"), name


def test_every_number_in_prose_was_filled_in(whole):
    for name, text in shown(whole):
        assert "{glue" not in text and "No key" not in text, name
        assert 'class="pasted-text"></span>' not in text, name


def test_every_chapter_says_where_its_numbers_come_from(whole):
    chapters = {file.stem for file in pages.chapters()}
    for name, text in shown(whole):
        if name in chapters:
            assert 'class="provenance"' in text, name


def test_no_page_shows_an_error(whole):
    for name, text in shown(whole):
        assert not re.search(r"Traceback \(most recent|class=\"problematic\"", text), name
    assert not list((whole / "reports").glob("*.err.log"))


def test_links_inside_the_book_lead_somewhere(whole):
    for file in (whole / "book").glob("*.html"):
        text = file.read_text("utf-8")
        for target in re.findall(r'(?:href|src)="([^"#?:]+)(?:[#?][^"]*)?"', text):
            assert (file.parent / target).exists(), f"{file.name}: {target}"


def test_pages_are_light_and_ask_nothing_of_the_network(whole):
    """What a browser fetches by itself: scripts, styles, pictures; links are for readers."""
    outside = re.compile(r"url\(['\"]?https?:|@import ['\"]?https?:|\bsrc(?:set)?=\"https?:")
    for file in [*whole.glob("book/*.html"), *whole.glob("_static/**/*.css")]:
        text = file.read_text("utf-8")
        fetched = re.findall(r"<link[^>]*>", text)
        assert not outside.search(text) and not any('href="http' in tag for tag in fetched), file
        images = set(re.findall(r'src="(\.\./_images/[^"]+)"', text))
        size = file.stat().st_size + sum((file.parent / image).stat().st_size for image in images)
        assert size < 1_000_000, f"{file.name}: {size:,} bytes"


def test_nothing_leads_to_a_repository_that_has_no_address(whole):
    for file in whole.glob("book/*.html") if not files.address() else ():
        text = file.read_text("utf-8")
        assert not re.search(r"mybinder|colab\.research|/commit/|/issues|none/none", text), (
            file.name
        )
